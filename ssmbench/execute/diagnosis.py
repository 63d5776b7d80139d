"""The judgements of `ssmbench doctor`: from what machines answered to ok, bad or skipped."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ssmbench import console

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Verdict = Literal["ok", "bad", "skipped"]

# Libraries that touch numbers or the wire; GPU kernels are on machines with GPUs alone.
SAME = (
    "ssmbench", "python", "ray", "torch", "polars", "pyarrow", "numpy", "transformers",
    "tokenizers", "lm_eval", "datasets",
)  # fmt: skip
MAX_SKEW_S = 2.0
MAX_KEEPALIVE_MS = 30_000


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, where, how it is, what was found, what to do about it."""

    name: str
    where: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster: its name for people, its GPUs as Ray counts them, its answers."""

    name: str
    n_gpus: int
    facts: Mapping[str, Any]


def check_versions(here: Mapping[str, str], machines: Sequence[Machine]) -> list[Check]:
    """Compare each machine's versions with this process's."""
    checks = []
    good = []
    for machine in machines:
        there = machine.facts["versions"]
        if there is None:
            checks.append(
                Check("versions", machine.name, "bad", "ssmbench is not installed", _INSTALL)
            )
            continue
        different = [
            f"{name} {there.get(name, 'missing')} (here {here.get(name, 'missing')})"
            for name in SAME
            if _plain(there.get(name)) != _plain(here.get(name))
        ]
        if different:
            found = ", ".join(different)
            checks.append(Check("versions", machine.name, "bad", found, _INSTALL))
        else:
            good.append(machine)
    if good:
        shown = ", ".join(f"{name} {here[name]}" for name in SAME[:5] if name in here)
        checks.append(Check("versions", named(good), "ok", shown))
    return checks


_INSTALL = "install the same there: pip install --constraint constraints.txt ssmbench"


def _plain(version: str | None) -> str | None:
    """Leave out how it was built: torch 2.13.0+cpu and 2.13.0+cu130 are one version."""
    return None if version is None else version.partition("+")[0]


def check_job_python(here: Mapping[str, str], machine: Machine) -> Check:
    """See that `python` in a job's shell, on the driver's machine, is one with ssmbench."""
    found = machine.facts["command"]
    if found is None or found.split()[0] != here["ssmbench"]:
        shown = "finds no ssmbench" if found is None else f"is ssmbench {found}"
        advice = "start Ray there from a shell in which the environment is activated"
        return Check("submit", machine.name, "bad", f"`python` in a job {shown}", advice)
    return Check("submit", machine.name, "ok", f"`python` in a job is {found.split()[1]}")


def check_gpus(machines: Sequence[Machine]) -> list[Check]:
    """Compare the GPUs that Ray hands out with those that are there."""
    checks = []
    for machine in machines:
        there = machine.facts["gpus"]
        if machine.n_gpus > len(there):
            found = f"Ray hands out {machine.n_gpus}, nvidia-smi shows {len(there)}"
            advice = "start Ray there with the --num-gpus that are there, or mend the driver"
            checks.append(Check("GPUs", machine.name, "bad", found, advice))
        elif machine.n_gpus:
            checks.append(Check("GPUs", machine.name, "ok", "; ".join(there)))
    if not checks:
        return [Check("GPUs", named(machines), "skipped", "no machine has one")]
    return checks


def check_kernels(machine: str, answers: Iterable[Mapping[str, Any] | None]) -> list[Check]:
    """Judge the kernels on each device of a machine; None stands for a device that is busy."""
    checks = []
    for answer in answers:
        if answer is None:
            checks.append(Check("kernels", machine, "skipped", "its GPU is at work"))
        elif "problem" in answer:
            advice = "see docs/install.md for this kind of GPU"
            checks.append(Check("kernels", machine, "bad", answer["problem"], advice))
        else:
            # Written so that a NaN is wrong.
            errors, limit = answer["errors"], answer["limit"]
            wrong = {name: e for name, e in errors.items() if not e <= limit}
            shown = ", ".join(f"{n} off by {e:.1e}" for n, e in (wrong or errors).items())
            advice = "numbers from this device are wrong: leave the machine out" if wrong else ""
            verdict: Verdict = "bad" if wrong else "ok"
            checks.append(Check("kernels", machine, verdict, f"{answer['name']}: {shown}", advice))
            checks += check_backends(machine, answer)
    return checks


def check_backends(machine: str, answer: Mapping[str, Any]) -> list[Check]:
    """Say what computes on a device, and of each backend why it does not; none is bad.

    Args:
        machine: its name.
        answer: of `Probe.kernels`, without a problem; that of a processor names no backends.
    """
    if not answer.get("backends"):
        return []
    checks = [Check("backend", machine, "ok", f"{answer['name']}, auto: {answer['computed']}")]
    for backend, problems in answer["backends"].items():
        lacking = {op: problem for op, problem in problems.items() if problem is not None}
        if not lacking:
            checks.append(Check("backend", machine, "ok", f"{backend}: computes all it offers"))
            continue
        reasons = dict.fromkeys(lacking.values())
        shown = "; ".join(
            f"{', '.join(op for op, p in lacking.items() if p == reason)}: {reason}"
            for reason in reasons
        )
        advice = "see docs/gpu.md, if you want it"
        checks.append(Check("backend", machine, "skipped", f"{backend}: {shown}", advice))
    return checks


def check_folder(
    run: str, written: Mapping[str, str | None], read: Mapping[tuple[str, str], str | None]
) -> list[Check]:
    """Judge a run folder.

    Args:
        run: the folder as it was given.
        written: machine -> the problem with writing there.
        read: (who wrote, who read) -> the problem with reading it back.
    """
    advice = "expected a folder or bucket that every machine sees and may write"
    checks = [
        Check("run folder", machine, "bad", f"{run}: {problem}", advice)
        for machine, problem in written.items()
        if problem
    ]
    for (writer, reader), problem in read.items():
        if problem:
            found = f"{run}: what {writer} wrote is not seen: {problem}"
            checks.append(Check("run folder", reader, "bad", found, advice))
    if not checks:
        n = console.count(len(written), "machine")
        checks.append(Check("run folder", n, "ok", f"{run}: written and read back by each other"))
    return checks


def check_inputs(missing: Mapping[str, Mapping[str, str]], n: int) -> list[Check]:
    """Judge models and data; machine -> what it lacks -> why. `n` is how many were asked for."""
    advice = "put it there, or into a folder that every machine sees"
    checks = [
        Check("models and data", machine, "bad", f"{what}: {why}", advice)
        for machine, lacks in missing.items()
        for what, why in lacks.items()
    ]
    if checks:
        return checks
    where = console.count(len(missing), "machine")
    return [Check("models and data", where, "ok", f"{console.count(n, 'source')} at hand")]


def check_clocks(skews: Mapping[str, tuple[float, float]]) -> list[Check]:
    """Judge clocks; machine -> (seconds ahead of this one, how uncertain that is)."""
    checks = []
    for machine, (ahead, uncertain) in skews.items():
        if abs(ahead) - uncertain > MAX_SKEW_S:
            found = f"{ahead:+.1f} s against this machine"
            advice = "run chrony or another NTP client there; locks and logs compare times"
            checks.append(Check("clock", machine, "bad", found, advice))
    if checks:
        return checks
    largest = max((abs(ahead) for ahead, _ in skews.values()), default=0.0)
    where = console.count(len(skews), "machine")
    return [Check("clock", where, "ok", f"at most {largest:.2f} s apart")]


def check_keepalive(variables: Mapping[str, str]) -> Check:
    """Judge how soon the driver notices a machine that vanished without a word."""
    names = ("RAY_grpc_client_keepalive_time_ms", "RAY_grpc_client_keepalive_timeout_ms")
    values = [variables.get(name, "") for name in names]
    shown = ", ".join(f"{n}={v or 'unset'}" for n, v in zip(names, values, strict=True))
    if all(v.isdecimal() and int(v) <= MAX_KEEPALIVE_MS for v in values):
        return Check("keepalive", "the driver", "ok", shown)
    advice = f"unset them (10000 is then taken), or set both to {MAX_KEEPALIVE_MS} at most"
    return Check("keepalive", "the driver", "bad", shown, advice)


def check_auth(mode: str, machines: Sequence[Machine]) -> list[Check]:
    """Compare each machine's authentication mode with this process's."""
    other = [m for m in machines if m.facts["variables"].get("RAY_AUTH_MODE", mode).lower() != mode]
    if other:
        found = f"another RAY_AUTH_MODE than here ({mode})"
        advice = "start Ray with the same RAY_AUTH_MODE and token on every machine"
        return [Check("authentication", named(other), "bad", found, advice)]
    what = "token" if mode == "token" else "none: whoever reaches the head's ports may run code"
    return [Check("authentication", named(machines), "ok", what)]


def check_launcher(config: Mapping[str, Any] | None, variable: str | None, n: int) -> Check:
    """Judge the Ray launcher's file of this cluster, if there is one, and that workers came.

    Args:
        config: the file, as `ray up` leaves it on the head; None where there is none.
        variable: RAY_enable_autoscaler_v2 of the head's processes.
        n: machines of the cluster that are alive, with the head.
    """
    if config is None:
        return Check("launcher", "the head", "skipped", "not started by `ray up`")
    kind = (config.get("provider") or {}).get("type")
    types = config.get("available_node_types") or {}
    wanted = sum(int(found.get("min_workers") or 0) for found in types.values())
    found = f"provider {kind}: {n - 1} of at least {wanted} workers are there"
    if n - 1 >= wanted:
        return Check("launcher", "the head", "ok", found)
    advice = "`ray monitor cluster.yaml` says why; setting a machine up takes minutes"
    if kind == "local" and variable == "1":
        advice = "start it with RAY_UP_enable_autoscaler_v2=0 ray up cluster.yaml (ray#57153)"
    return Check("launcher", "the head", "bad", found, advice)


def named(machines: Sequence[Machine]) -> str:
    """Write which machines, shortly."""
    if len(machines) <= 2:
        return ", ".join(m.name for m in machines) or "no machine"
    return f"{len(machines)} machines"


def rows(checks: Iterable[Check]) -> list[list[str]]:
    """Give the table's lines; equal ones of several machines once."""
    merged: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for check in checks:
        merged[check.name, check.verdict, check.found, check.advice].append(check.where)
    lines = []
    for (name, verdict, found, advice), places in merged.items():
        where = ", ".join(places) if len(places) <= 2 else f"{len(places)} × {places[0]}, …"
        lines.append([name, where, verdict, found, advice])
    return lines
