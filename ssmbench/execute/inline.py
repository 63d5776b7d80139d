"""Runs attempts one after another in this process: a debugger works, a crash ends everything."""

from __future__ import annotations

import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from ssmbench.execute import environment
from ssmbench.execute.executor import ATTEMPT, Ended, Node, Sign, Step, load_attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ssmbench.execute.executor import Demand
    from ssmbench.execute.job import Job
    from ssmbench.plan.cells import Resources


class DeadlineError(Exception):
    """The attempt ran past its timeout; raised at its next report."""


class InlineExecutor:
    """Each `poll` runs one attempt from beginning to end.

    A timeout is noticed only where the attempt reports a step, since nothing else runs.
    """

    captures = False
    dies_with_driver = False

    def __init__(
        self,
        *,
        target: str = ATTEMPT,
        on_step: Callable[[], None] = lambda: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make an executor.

        Args:
            target: what runs a job, as "module:function".
            on_step: called after each reported step, for the display and the deadline.
            pause: waits when there is nothing to run.
        """
        self._attempt = load_attempt(target)
        self.on_step = on_step
        self._pause = pause
        self._host = socket.gethostname()
        self._queue: deque[Job] = deque()
        self._ended: list[Ended] = []
        self._steps: dict[str, Step] = {}
        self._doomed: set[str] = set()

    def check(self, resources: Resources) -> str | None:
        """Compare with this machine; memory and labels mean nothing here."""
        if resources.num_cpus > environment.n_cpus():
            return f"asked for {resources.num_cpus:g} CPUs; this machine has {environment.n_cpus()}"
        if resources.num_gpus:
            import torch

            if not torch.cuda.is_available():
                return f"asked for {resources.num_gpus:g} GPU; torch finds none on this machine"
        return None

    def nodes(self, resources: Resources) -> Sequence[Node]:  # noqa: ARG002
        """Give this machine alone."""
        return [Node(self._host, self._host, 0)]

    def slots(self, demand: Demand) -> int:  # noqa: ARG002
        """One at a time."""
        return 1

    def submit(self, job: Job, demand: Demand) -> None:  # noqa: ARG002
        """Queue a job; what it asks for was checked before."""
        self._queue.append(job)

    def poll(self, timeout_s: float) -> list[Ended]:
        """Run the next job to its end; KeyboardInterrupt inside it passes through."""
        if not self._ended and not self._queue:
            self._pause(timeout_s)
        if not self._ended and self._queue:
            self._ended.append(self._run(self._queue.popleft()))
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, attempt_id: str, *, force: bool) -> None:
        """Drop a queued job; with `force`, end the running one at its next report."""
        for job in [j for j in self._queue if j.attempt_id == attempt_id]:
            self._queue.remove(job)
            self._ended.append(Ended(attempt_id, None, KeyboardInterrupt()))
        if force and attempt_id in self._steps:
            self._doomed.add(attempt_id)

    def signs(self) -> Mapping[str, Sign]:
        """Give the running job's last step."""
        return {name: Sign(step, self._host) for name, step in self._steps.items()}

    def is_reachable(self, node: str) -> bool:  # noqa: ARG002
        """Always: it is this one."""
        return True

    def close(self) -> None:
        """Nothing outlives this process."""

    def _run(self, job: Job) -> Ended:
        def report(step: str, done: int, total: int, note: str = "", /) -> None:
            self._steps[job.attempt_id] = Step(step, done, total, note)
            self.on_step()
            if job.attempt_id in self._doomed:
                raise DeadlineError("the attempt ran past the grid's timeout")

        self._steps[job.attempt_id] = Step("start", 0, 0)
        try:
            return Ended(job.attempt_id, self._attempt(job, report), None, self._host, "alive")
        finally:
            self._steps.clear()
            self._doomed.discard(job.attempt_id)
