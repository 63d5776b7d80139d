"""Runs attempts as Ray tasks: one process each, on this machine or on a cluster.

Ray retries nothing here (`max_retries=0`): the driver does, by class of error. A task with
resources that no node has would wait for ever without a word, so they are checked first.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from ssmbench.execute import connection, isolation, nodes, worker
from ssmbench.execute.cluster import Cluster, node_in
from ssmbench.execute.executor import ATTEMPT, Demand, Ended, Node, Sign
from ssmbench.execute.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.execute.job import Job
    from ssmbench.plan.cells import Resources

_CLOSE_WAIT_S = 5.0
_LISTEN_EVERY_S = 0.25
# A board that has not answered for this long says nothing about the attempts.
_BOARD_SILENT_S = 10.0
_BOARD_ANSWER_S = 10.0
# A machine that is switched off ends its processes in no particular order: the reason why a
# worker died may come after its death.
_REASON_S = 2.0
# What an attempt has from being asked to end, in which a training keeps its place, to its end.
_GRACE_S = 5.0


class RayExecutor:
    """Attempts as Ray tasks, on a cluster of this machine alone or an existing one."""

    captures = True

    def __init__(
        self,
        *,
        address: str | None = None,
        num_cpus: float = 1,
        isolate: bool = True,
        data: str | None = None,
        offline: bool = False,
        target: str = ATTEMPT,
        local_cpus: int | None = None,
    ) -> None:
        """Start Ray here, or join a running cluster, or the one this process is connected to.

        Args:
            address: a cluster's ("auto" for the one that this machine belongs to); None to
                start one of this machine's CPUs and GPUs, which ends with this process.
            num_cpus: what most attempts ask for; others need a worker of their own.
            isolate: give every attempt a fresh process.
            data: the folder of local task data, for the workers' environment.
            offline: nothing may be asked of the hub.
            target: what runs a job, as "module:function".
            local_cpus: CPUs of a cluster started here; all of the machine's where None.

        Raises:
            PrerequisiteError: there is no such cluster, or Ray cannot start.
        """
        self._data, self._offline, self._target = data, offline, target
        self._num_cpus = num_cpus
        self._scratch: Scratch | None = None
        self._refs: dict[Any, str] = {}
        self._unexplained: list[tuple[float, Ended]] = []
        self._doomed: dict[Any, float] = {}
        self._snapshot: Any = None
        self._signs: dict[str, Sign] = {}
        self._asked_s = self._heard_s = -math.inf
        connected: Any = sys.modules.get("ray")
        self._owns = connected is None or not connected.is_initialized()
        if self._owns and address is None:
            self._scratch = Scratch()
        ray: Any = connected
        if self._owns:
            environment = self._runtime_env(num_cpus)
            folder = None if self._scratch is None else self._scratch.path
            ray = connection.connect(address, folder, environment, local_cpus=local_cpus)
        self._ray = ray
        # max_calls cannot be set per call: it ends the worker after one attempt.
        self._task = ray.remote(max_calls=1 if isolate else 0, max_retries=0)(worker.work)
        self._cluster = Cluster(ray)
        here = ray.get_runtime_context().get_node_id()
        self._board = ray.remote(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            label_selector={nodes.NODE_LABEL: here},
        )(worker.Board).remote()
        self._print = connection.quieten()

    @property
    def dies_with_driver(self) -> bool:
        """A cluster that was started here ends with this process, however it ends."""
        return self._owns

    def check(self, resources: Resources) -> str | None:
        """Compare with the nodes that are there now."""
        return nodes.problem(self._cluster.alive(), resources)

    def nodes(self, resources: Resources) -> Sequence[Node]:
        """Give the nodes that fit, as Ray knows them."""
        found = nodes.usable(self._cluster.alive(), Demand(resources))
        return [
            Node(n["NodeID"], n["NodeManagerHostname"], n["Resources"].get("memory", 0.0))
            for n in found
        ]

    def slots(self, demand: Demand) -> int:
        """Add up what the nodes that fit can hold at once."""
        alive = self._cluster.alive()
        asked = nodes.asked_of(alive, demand)
        return sum(
            nodes.capacity(n, asked) for n in nodes.usable(alive, demand) if nodes.fits(n, asked)
        )

    def submit(self, job: Job, demand: Demand) -> None:
        """Hand the job to Ray."""
        asked = nodes.asked_of(self._cluster.alive(), demand)
        options: dict[str, Any] = {"name": job.cell.label, **nodes.options(asked, demand.avoid)}
        if job.num_cpus != self._num_cpus or not self._owns:
            options["runtime_env"] = self._runtime_env(job.num_cpus)
        reference = self._task.options(**options).remote(self._target, job.to_json(), self._board)
        self._refs[reference] = job.attempt_id

    def poll(self, timeout_s: float) -> list[Ended]:
        """Wait for tasks to end; a task's exception means that its process is gone."""
        self._end_doomed(time.monotonic())
        ready: list[Any] = []
        if self._refs:
            wait, refs = self._ray.wait, list(self._refs)
            ready, _ = wait(refs, num_returns=1, timeout=timeout_s, fetch_local=False)
            if ready and len(refs) > 1:
                # Others may be ready as well: take them all at once.
                ready, _ = wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        else:
            time.sleep(timeout_s)
        ended = [self._ended(reference) for reference in ready]
        return [found for found in ended if found is not None] + self._explained()

    def cancel(self, attempt_id: str, *, force: bool) -> None:
        """Cancel a task; one that runs sees a Ctrl-C, and with `force` its process ends soon.

        Native code sees nothing until it returns.
        """
        for reference, name in self._refs.items():
            if name == attempt_id:
                self._ray.cancel(reference, force=False)
                if force:
                    self._doomed.setdefault(reference, time.monotonic() + _GRACE_S)

    def signs(self) -> Mapping[str, Sign]:
        """Give the board's last snapshot and ask for the next, without waiting for it."""
        now = time.monotonic()
        with contextlib.suppress(self._ray.exceptions.RayError):
            if self._snapshot is None and now - self._asked_s >= _LISTEN_EVERY_S:
                self._asked_s = now
                self._snapshot = self._board.snapshot.remote()
            ready = self._snapshot and self._ray.wait([self._snapshot], timeout=0)[0]
            if ready:
                reference, self._snapshot = self._snapshot, None
                found = self._ray.get(reference)
                self._heard_s = now
                self._signs = {k: Sign(h.step, h.node, h.silent_s) for k, h in found.items()}
        return self._signs if now - self._heard_s < _BOARD_SILENT_S else {}

    def is_reachable(self, node: str) -> bool:
        """Ask the cluster and, if that thinks so, the machine itself."""
        return self._cluster.is_reachable(node)

    def close(self) -> None:
        """Cancel what still runs and leave Ray; a cluster started here is gone with it."""
        for attempt_id in list(self._refs.values()):
            self.cancel(attempt_id, force=True)
        self._wait(_GRACE_S)
        self._end_doomed(math.inf)
        # Without this, a shutdown at once may leave a worker running for seconds.
        self._wait(_CLOSE_WAIT_S)
        self._refs.clear()
        connection.quieten(self._print)
        if not self._owns:
            self._ray.kill(self._board)
            return
        self._ray.shutdown()
        if self._scratch is not None:
            self._scratch.close()

    def _end_doomed(self, now: float) -> None:
        """End the processes of those whose grace is over."""
        for reference, due_s in list(self._doomed.items()):
            if reference not in self._refs:
                del self._doomed[reference]
            elif now >= due_s:
                self._doomed[reference] = math.inf
                self._ray.cancel(reference, force=True)

    def _wait(self, seconds: float) -> None:
        """Wait until nothing runs, or so long."""
        if self._refs:
            found = list(self._refs)
            ended, _ = self._ray.wait(found, num_returns=len(found), timeout=seconds)
            for reference in ended:
                del self._refs[reference]

    def _ended(self, reference: Any) -> Ended | None:
        """Take a task's result; None if it is kept until there is more to say about it."""
        attempt_id = self._refs.pop(reference)
        try:
            node, outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if isinstance(error, self._ray.exceptions.TaskCancelledError):
                return Ended(attempt_id, None, error)
            node = self._forget(attempt_id) or node_in(error)
            ended = Ended(attempt_id, None, error, node, self._cluster.fate(node))
            crashed = isinstance(error, self._ray.exceptions.WorkerCrashedError)
            if crashed and ended.fate == "alive" and self._scratch is None:
                self._unexplained.append((time.monotonic() + _REASON_S, ended))
                return None
            return ended
        return Ended(attempt_id, outcome, None, node, "alive")

    def _explained(self) -> list[Ended]:
        """Give the crashes that are old enough to know what became of their machines."""
        now = time.monotonic()
        due = [ended for due_s, ended in self._unexplained if due_s <= now]
        if due:
            self._unexplained = [(s, ended) for s, ended in self._unexplained if s > now]
        return [ended._replace(fate=self._cluster.fate(ended.node)) for ended in due]

    def _forget(self, attempt_id: str) -> str | None:
        """Ask the board where an attempt was that has no process any more."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            found: str | None = self._ray.get(
                self._board.forget.remote(attempt_id), timeout=_BOARD_ANSWER_S
            )
            return found
        return None

    def _runtime_env(self, num_cpus: float) -> dict[str, Any]:
        found = isolation.variables(num_cpus=num_cpus, data=self._data, offline=self._offline)
        if self._scratch is not None:
            # A killed worker leaves its temporary files; they go with the cluster's folder.
            found["TMPDIR"] = str(self._scratch.path)
        return {"env_vars": found}
