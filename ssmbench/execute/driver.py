"""The loop that turns a plan into committed numbers.

One thread: submit what is due, wait, judge what ended, end what is late or silent. How long
to wait is `patience`; what follows from an ending is `judge`; what many of them say about
machines and methods is `health`; where a retry goes is `placing`.
"""

from __future__ import annotations

import math
import time
import uuid
from typing import TYPE_CHECKING

from ssmbench.execute import policy
from ssmbench.execute.health import Health, proven_by
from ssmbench.execute.job import Job
from ssmbench.execute.judge import Judge
from ssmbench.execute.patience import Patience
from ssmbench.execute.placing import Placing
from ssmbench.execute.progress import Display, Running, State
from ssmbench.execute.task import Flight, Settings, Summary, Task
from ssmbench.store.logs import Beginnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ssmbench.execute.executor import Demand, Ended, Executor
    from ssmbench.execute.interrupts import Stop
    from ssmbench.store.ledger import Ledger

POLL_S = 0.25
# What trainings have, once they are to end, to make a last checkpoint.
KEEP_S = 5.0
# Attempts handed over beyond those that can run, so that no machine waits for the driver.
AHEAD = 2
_SHOW_EVERY_S = 0.2
# How often other terminals' requests are looked for, and whether any machine fits what waits.
LOOK_EVERY_S = 2.0


class Driver:
    """Runs tasks on an executor until each is committed or has failed for good."""

    def __init__(
        self,
        tasks: Iterable[Task],
        *,
        executor: Executor,
        ledger: Ledger,
        display: Display,
        settings: Settings,
        stop: Stop,
        requests: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a driver.

        Args:
            tasks: what to do, in the order in which to start it; timing is moved behind
                quality, since it wants machines for itself.
            executor: where attempts run; every task's resources were checked.
            ledger: open, and ours.
            display: shown the state after each change.
            settings: what every job shares.
            stop: read in every round; a signal handler sets it.
            requests: gives the level of stopping that another terminal asks for.
            clock: seconds, steady.
        """
        self._queue = sorted(tasks, key=lambda t: t.kind == "timing")
        self._executor, self._ledger, self._display = executor, ledger, display
        self._settings, self._stop, self._clock = settings, stop, clock
        self._requests = requests
        self._cells = frozenset(task.entry.cell.id for task in self._queue)
        self._beginnings = Beginnings(ledger.folder)
        self._flights: dict[str, Flight] = {}
        self._summary = Summary()
        self._health = Health(
            proven=proven_by(ledger.history),
            n_methods=len({task.entry.cell.method for task in self._queue}),
        )
        self._placing = Placing(executor, self._health, display.note)
        self._patience = Patience(executor)
        self._judge = Judge(
            ledger=ledger,
            display=display,
            summary=self._summary,
            health=self._health,
            placing=self._placing,
        )
        self._started_s = clock()
        self._shown_s = self._looked_s = -math.inf
        self._shown_stopping = False

    def run(self) -> Summary:
        """Do everything, or what is left once a stop is asked for.

        Raises:
            StoreError: another driver took over, or the ledger cannot be written.
        """
        try:
            while self._flights or (self._queue and not self._stopping):
                if self._stop.level >= 2:
                    break
                self._recall()
                if not self._stopping:
                    self._submit_due()
                self.tick()
                given_up = self._patience.given_up(self._flights.values(), self._clock())
                ended = [*given_up, *self._executor.poll(POLL_S)]
                with self._ledger.batch():
                    for found in ended:
                        self._settle(found)
                    if ended:
                        self._queue = self._judge.conclude(self._queue, self._flights.values())
                self._judge.tell()
        except KeyboardInterrupt:
            # Inline, a second Ctrl-C breaks into the running attempt.
            self._stop.level = 2
        finally:
            self._abandon()
            self._summary.n_left = len(self._queue)
            self._summary.seconds = self._clock() - self._started_s
        return self._summary

    @property
    def _stopping(self) -> bool:
        return self._stop.level > 0 or self._summary.stopped is not None

    def tick(self) -> None:
        """End what is late and show where everything stands; inline, attempts call this."""
        now = self._clock()
        signs = self._executor.signs()
        running = []
        for flight in self._flights.values():
            job = flight.job
            sign = signs.get(job.attempt_id)
            if sign is not None:
                flight.node = sign.node or flight.node
            if flight.started_s is None and (
                sign is not None or self._beginnings.has(job.cell.id, job.attempt_id)
            ):
                flight.started_s = now
            if flight.started_s is None:
                continue
            self._patience.watch(flight, sign, now)
            step = None if sign is None else sign.step
            running.append(Running(job, flight.task.seconds, flight.started_s, step))
        if now - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now
            self._stop.level = max(self._stop.level, self._requests())
            self._placing.look(self._flights.values(), self._queue[:1], now)
        if now - self._shown_s >= _SHOW_EVERY_S or self._stopping != self._shown_stopping:
            self._shown_s, self._shown_stopping = now, self._stopping
            self._display.show(self._state(running, now))

    def _state(self, running: Sequence[Running], now: float) -> State:
        queued = [f.task for f in self._flights.values() if f.started_s is None]
        pending = {task.entry.cell.id for task in self._queue}
        pending |= {flight.job.cell.id for flight in self._flights.values()}
        pending |= {lost.entry.cell.id for lost in self._summary.lost}
        return State(
            now_s=now,
            n_cells=len(self._cells),
            n_cells_done=len(self._cells - pending),
            running=tuple(running),
            waiting_s=tuple(t.seconds for t in [*queued, *self._queue]),
            n_finished=self._summary.n_done,
            n_failed=len(self._summary.lost),
            n_retried=self._summary.n_retried,
            finished_s=self._summary.done_s,
            finished_estimate_s=self._summary.done_estimate_s,
            n_slots=self._slots(),
            stopping=self._stopping,
        )

    def _slots(self) -> int:
        """Count attempts that run at once, by what the next in line asks for."""
        demands = [flight.demand for flight in self._flights.values()]
        demands += [self._placing.demand(task) for task in self._queue[:1]]
        return max([1, *(self._executor.slots(demand) for demand in demands)])

    def _submit_due(self) -> None:
        """Hand over what is due, as long as few attempts wait at the executor."""
        now = self._clock()
        for task in list(self._queue):
            demand = self._placing.demand(task)
            slots = self._executor.slots(demand)
            if len(self._flights) >= slots + max(AHEAD, slots // 4):
                if demand.avoid <= self._health.quarantined.keys():
                    return
                continue  # Others may run where this one must not.
            # Timing comes after all quality. While no machine fits, one attempt is enough to
            # ask a cluster for one, and a second would share it.
            busy = self._quality_pending() if slots else bool(self._flights)
            if task.kind == "timing" and busy:
                return
            if task.due_s <= now:
                self._queue.remove(task)
                self._submit(task, demand, now)

    def _quality_pending(self) -> bool:
        """Whether attempts of quality suites are running or due: timing comes after them."""
        flying = any(f.task.kind == "quality" for f in self._flights.values())
        return flying or any(t.kind == "quality" for t in self._queue)

    def _submit(self, task: Task, demand: Demand, now: float) -> None:
        task.number += 1
        attempt_id = uuid.uuid4().hex[:16]
        folder = self._ledger.folder
        cell, resources = task.entry.cell, task.resources
        job = Job(
            folder=folder.location,
            cell=cell,
            suites=task.suites,
            attempt_id=attempt_id,
            number=task.number,
            log=folder.relative(folder.log_file(cell.id, attempt_id)),
            data=self._settings.data,
            device="cuda" if resources.num_gpus else "cpu",
            batch_tokens=task.batch_tokens,
            num_cpus=resources.num_cpus,
            offline=self._settings.offline,
            capture=self._executor.captures,
            gpu_share=1.0 if demand.alone else min(1.0, resources.num_gpus or 1.0),
            checkpoint_s=task.entry.checkpoint_s,
            backend=task.entry.backend,
        )
        self._flights[attempt_id] = Flight(task, job, demand, now)
        self._executor.submit(job, demand)

    def _settle(self, ended: Ended) -> None:
        """Judge an ended attempt and take back what is still to do."""
        flight = self._flights.pop(ended.attempt_id, None)
        if flight is None:
            return
        if self._is_withdrawn(flight, ended):
            if self._judge.left(flight):
                # Nothing went wrong with it: it keeps its place.
                self._queue.insert(0, flight.task)
            return
        again = self._judge.settle(flight, ended, self._clock())
        if again is not None:
            # A retry comes first: what it waited for is over, and its cell is nearly done.
            self._queue.insert(0, again)

    def _is_withdrawn(self, flight: Flight, ended: Ended) -> bool:
        """Whether it ended because we took it back, and for no other reason."""
        if ended.error is None or flight.verdict is not None:
            return False
        ours = flight.recalled or self._stopping
        return ours and policy.classify(ended.error) == "cancelled"

    def _recall(self) -> None:
        """Take back what waits at the executor and is not to run, or not like this."""
        for flight in self._flights.values():
            if flight.started_s is not None or flight.recalled:
                continue
            if (
                self._stopping
                or self._health.is_poisoned(flight.task)
                or self._placing.is_outdated(flight)
            ):
                flight.recalled = True
                self._executor.cancel(flight.job.attempt_id, force=False)

    def _abandon(self) -> None:
        """End what still runs; its cells are still to do.

        Trainings get a moment to keep their place.
        """
        signs = self._executor.signs()
        training = {k for k in self._flights if k in signs and signs[k].step.name == "fine-tune"}
        for attempt_id, flight in self._flights.items():
            if attempt_id in training or not self._executor.dies_with_driver:
                self._executor.cancel(attempt_id, force=True)
            self._queue.append(flight.task)
        self._flights.clear()
        until_s = self._clock() + KEEP_S
        while training and self._clock() < until_s:
            training -= {ended.attempt_id for ended in self._executor.poll(POLL_S)}
