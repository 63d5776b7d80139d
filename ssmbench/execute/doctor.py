"""`ssmbench doctor`: whether this machine or cluster can do the work, before hours are spent."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmbench import console
from ssmbench.errors import CANNOT_RUN, DONE, PrerequisiteError
from ssmbench.execute import diagnosis, environment, probe, submit
from ssmbench.execute.diagnosis import Check, Machine
from ssmbench.execute.prepare import Request, prepare
from ssmbench.store.address import place
from ssmbench.store.atomic import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ANSWER_S = 90.0
# Kernels are compiled, and some tuned, at their first call on a machine.
_GPU_WAIT_S = 300.0
_LOOKS_AT_CLOCK = 5


@dataclass(frozen=True)
class Examination:
    """What to examine.

    Attributes:
        address: a running Ray cluster, or the dashboard of its head; Ray starts here if None.
        out: the run folder to try, if any.
        grid: the grid whose models are looked for, if any.
        data: as in `prepare.Request`.
        models: as in `prepare.Request`.
        tokenizers: as in `prepare.Request`.
    """

    address: str | None = None
    out: str | None = None
    grid: Path | None = None
    data: Path | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    tokenizers: Mapping[str, str] = field(default_factory=dict)


def examine(asked: Examination) -> int:
    """Print a table of checks and give the exit code: 0, or 3 if something is bad.

    Raises:
        GridError: the grid has mistakes.
        PrerequisiteError: no cluster answers at the address.
    """
    if asked.address is not None and "://" in asked.address:
        return _examine_there(asked)
    sources = _sources(asked)
    checks = list(_checks(asked, sources))
    console.rows(["check", "where", "", "found", "what to do"], diagnosis.rows(checks))
    n_bad = sum(check.verdict == "bad" for check in checks)
    if n_bad:
        console.note(f"{console.count(n_bad, 'check')} bad")
        return CANNOT_RUN
    return DONE


def _examine_there(asked: Examination) -> int:
    """Let the cluster's head examine the cluster, as a job, and print what it says."""
    words = ["python", "-m", "ssmbench", "doctor"]
    if asked.out is not None:
        words += ["--out", submit.shared("--out", asked.out)]
    if asked.data is not None:
        words += ["--data", submit.shared("--data", str(asked.data))]
    for flag, given in (("--model", asked.models), ("--tokenizer", asked.tokenizers)):
        for name, text in given.items():
            words += [flag, f"{name}={text}"]
    if asked.grid is not None:
        words.append(asked.grid.name)
    client = submit.connect(asked.address)
    job = submit.start(client, submit.on_this_cluster(words), asked.grid)
    console.note(f"examined by the cluster's head, as job {job} …")
    return submit.result(client, job)


def _sources(asked: Examination) -> list[str] | None:
    """List the models that a grid needs; None where no grid was named."""
    if asked.grid is None:
        return None
    request = Request(
        grid=asked.grid, data=asked.data, models=asked.models, tokenizers=asked.tokenizers
    )
    found = {entry.cell.model.source for entry in prepare(request).entries}
    return sorted(found)


def _checks(asked: Examination, sources: list[str] | None) -> list[Check]:
    here = environment.versions()
    with Cluster(asked.address) as cluster:
        machines = cluster.machines
        checks = diagnosis.check_versions(here, machines)
        checks += diagnosis.check_gpus(machines)
        checks += _kernels(cluster)
        checks += diagnosis.check_clocks(cluster.skews())
        checks += _folder(cluster, asked.out)
        checks += _inputs(cluster, asked, sources)
        checks.append(diagnosis.check_keepalive(os.environ))
        if asked.address is not None:
            checks += diagnosis.check_auth(cluster.auth_mode, machines)
            checks.append(diagnosis.check_job_python(here, cluster.head))
            checks.append(_launcher(cluster))
        checks += cluster.silent
    return checks


def _kernels(cluster: Cluster) -> list[Check]:
    checks = []
    for machine in cluster.machines:
        if machine.facts["versions"] is None:
            checks.append(Check("kernels", machine.name, "skipped", "ssmbench is not installed"))
        else:
            checks += diagnosis.check_kernels(machine.name, cluster.kernels(machine))
    return checks


def _folder(cluster: Cluster, out: str | None) -> list[Check]:
    """Let each machine write into the run folder and read what the others wrote."""
    if out is None:
        return [Check("run folder", "", "skipped", "none was named with --out")]
    run = place(out)
    made = not run.exists()
    names = {m.name: f"{TEMPORARY}doctor-{uuid.uuid4().hex}" for m in cluster.machines}
    data = {m.name: m.name.encode() for m in cluster.machines}
    where = str(run.absolute())
    try:
        written = cluster.ask_all(
            "write", {m.name: (where, names[m.name], data[m.name]) for m in cluster.machines}
        )
        read: dict[tuple[str, str], str | None] = {}
        for writer, problem in written.items():
            if problem is None:
                question = (where, names[writer], data[writer])
                answers = cluster.ask_all("read", {m.name: question for m in cluster.machines})
                read |= {(writer, reader): answer for reader, answer in answers.items()}
    finally:
        for name in names.values():
            with contextlib.suppress(OSError):  # Where it could not be written, it need not go.
                (run / name).unlink(missing_ok=True)
        if made and isinstance(run, Path) and run.is_dir() and not any(run.iterdir()):
            run.rmdir()
    return diagnosis.check_folder(out, written, read)


def _inputs(cluster: Cluster, asked: Examination, sources: list[str] | None) -> list[Check]:
    if sources is None:
        return [Check("models and data", "", "skipped", "no grid was named")]
    data = None if asked.data is None else str(asked.data.absolute())
    missing = cluster.ask_all("missing", {m.name: (sources, data) for m in cluster.machines})
    return diagnosis.check_inputs(missing, len(sources) + (data is not None))


def _launcher(cluster: Cluster) -> Check:
    """Look at what `ray up` left on the head; elsewhere there is nothing to see."""
    path = Path("~/ray_bootstrap_config.yaml").expanduser()
    config = None
    if path.is_file():
        from ruamel.yaml import YAML

        config = YAML(typ="safe").load(path)
    variable = cluster.head.facts["variables"].get("RAY_enable_autoscaler_v2")
    return diagnosis.check_launcher(config, variable, len(cluster.machines) + len(cluster.silent))


class Cluster:
    """The machines of a Ray cluster, each with a probe that answers questions."""

    def __init__(self, address: str | None) -> None:
        """Join a cluster, or start Ray on this machine."""
        from ssmbench.execute.ray import RayExecutor

        # Joins, or starts Ray here, as `run` does, with the same variables and messages.
        self._executor = RayExecutor(address=address)
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray: Any = ray
        self._strategy = NodeAffinitySchedulingStrategy
        self._ray.cloudpickle.register_pickle_by_value(probe)
        actor = self._ray.remote(num_cpus=0)(probe.Probe)
        self._nodes: dict[str, dict[str, Any]] = {}
        self._probes: dict[str, Any] = {}
        for node in self._ray.nodes():
            if node["Alive"]:
                name = _name(node, self._nodes)
                self._nodes[name] = node
                here = self._strategy(node["NodeID"], soft=False)
                self._probes[name] = actor.options(scheduling_strategy=here).remote()
        self.silent: list[Check] = []
        self.machines = self._meet()
        self.head = self._head()
        self.auth_mode = os.environ.get("RAY_AUTH_MODE", "disabled").lower()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.cloudpickle.unregister_pickle_by_value(probe)
        self._executor.close()

    def ask_all(self, question: str, arguments: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        """Put a question to machines at the same time; those that do not answer are left out."""
        asked = {
            name: getattr(self._probes[name], question).remote(*given)
            for name, given in arguments.items()
        }
        answers = {}
        deadline = time.monotonic() + _ANSWER_S
        for name, reference in asked.items():
            try:
                left_s = max(0.0, deadline - time.monotonic())
                answers[name] = self._ray.get(reference, timeout=left_s)
            except self._ray.exceptions.RayError as error:
                reason = " ".join(str(error).split())[:200]
                text = f"no answer to '{question}' ({type(error).__name__}: {reason})"
                self.silent.append(
                    Check(
                        "answers", name, "bad", text, "see that machine's /tmp/ray/session_latest"
                    )
                )
        return answers

    def skews(self) -> dict[str, tuple[float, float]]:
        """Give how far each machine's clock is ahead of this one's, and how uncertain that is."""
        found = {}
        for machine in self.machines:
            looks = []
            for _ in range(_LOOKS_AT_CLOCK):
                before = time.time()
                answer = self.ask_all("clock", {machine.name: ()})
                after = time.time()
                if answer:
                    there = answer[machine.name]
                    looks.append((there - (before + after) / 2, (after - before) / 2))
            if looks:
                found[machine.name] = min(looks, key=lambda look: look[1])
        return found

    def kernels(self, machine: Machine) -> Sequence[Mapping[str, Any] | None]:
        """Run the kernels on each GPU of a machine, or on its CPU; None where a GPU is busy."""
        if not machine.n_gpus:
            return list(self.ask_all("kernels", {machine.name: ("cpu",)}).values())
        node = self._nodes[machine.name]["NodeID"]
        task = self._ray.remote(num_gpus=1, num_cpus=0, max_retries=0, max_calls=1)(_gpu_kernels)
        asked = [
            task.options(scheduling_strategy=self._strategy(node, soft=False)).remote()
            for _ in range(machine.n_gpus)
        ]
        ready, waiting = self._ray.wait(asked, num_returns=len(asked), timeout=_GPU_WAIT_S)
        for reference in waiting:
            self._ray.cancel(reference, force=True)
        answers: list[Mapping[str, Any] | None] = [None] * len(waiting)
        for reference in ready:
            try:
                answers.append(self._ray.get(reference))
            except self._ray.exceptions.RayError as error:
                answers.append({"problem": f"{type(error).__name__}: its process is gone"})
        return answers

    def _meet(self) -> list[Machine]:
        facts = self.ask_all("facts", dict.fromkeys(self._probes, ()))
        return [
            Machine(name, int(self._nodes[name]["Resources"].get("GPU", 0)), answer)
            for name, answer in facts.items()
        ]

    def _head(self) -> Machine:
        for machine in self.machines:
            if "node:__internal_head__" in self._nodes[machine.name]["Resources"]:
                return machine
        raise PrerequisiteError("the cluster's head does not answer. See its /tmp/ray.")


def _gpu_kernels() -> dict[str, Any]:
    return probe.Probe().kernels("cuda")


def _name(node: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    """Name a node by its host, and by its address too where several have that."""
    host = str(node["NodeManagerHostname"])
    return host if host not in taken else f"{host} {node['NodeID'][:6]}"
