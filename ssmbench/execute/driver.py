"""The loop that turns a plan into committed numbers.

One thread: submit what is due, wait, judge what ended, commit or retry, end what is late.
Only the driver writes the ledger. What an attempt wrote before it failed or died counts; the
next attempt of the cell does the rest.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from ssmbench.errors import StoreError
from ssmbench.execute import policy
from ssmbench.execute.attempt import record_death
from ssmbench.execute.job import Job, SuiteFailure
from ssmbench.execute.progress import Display, Running, State
from ssmbench.execute.task import Flight, Lost, Settings, Summary, Task
from ssmbench.store import attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ssmbench.execute.executor import Ended, Executor
    from ssmbench.execute.interrupts import Stop
    from ssmbench.plan.cells import Suite
    from ssmbench.store.ledger import Ledger

POLL_S = 0.25
# Attempts handed over beyond those that can run, so that no machine waits for the driver.
AHEAD = 2


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
            clock: seconds, steady.
        """
        self._queue = sorted(tasks, key=lambda t: t.kind == "timing")
        self._executor, self._ledger, self._display = executor, ledger, display
        self._settings, self._stop, self._clock = settings, stop, clock
        self._cells = frozenset(task.entry.cell.id for task in self._queue)
        self._flights: dict[str, Flight] = {}
        self._summary = Summary()
        self._started_s = clock()
        self._finished_s = self._finished_estimate_s = 0.0

    def run(self) -> Summary:
        """Do everything, or what is left once a stop is asked for.

        Raises:
            StoreError: another driver took over, or the ledger cannot be written.
        """
        dropped = False
        try:
            while self._flights or (self._queue and not self._stop.level):
                if self._stop.level >= 2:
                    break
                if self._stop.level and not dropped:
                    dropped = True
                    self._drop_waiting()
                elif not self._stop.level:
                    self._submit_due()
                self.tick()
                for ended in self._executor.poll(POLL_S):
                    self._settle(ended)
        except KeyboardInterrupt:
            # Inline, a second Ctrl-C breaks into the running attempt.
            self._stop.level = 2
        finally:
            self._abandon()
            self._summary.n_left = len(self._queue)
            self._summary.seconds = self._clock() - self._started_s
        return self._summary

    def tick(self) -> None:
        """End what is late and show where everything stands; inline, attempts call this."""
        now = self._clock()
        steps = self._executor.steps()
        running = []
        for flight in self._flights.values():
            step = steps.get(flight.job.attempt_id)
            if flight.started_s is None and (step is not None or _log_path(flight.job).exists()):
                flight.started_s = now
            if flight.started_s is None:
                continue
            limit_s = flight.task.entry.timeout_s
            if now - flight.started_s > limit_s and not flight.overdue:
                flight.overdue = True
                self._executor.cancel(flight.job.attempt_id, force=True)
            running.append(Running(flight.job, flight.task.seconds, flight.started_s, step))
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
            finished_s=self._finished_s,
            finished_estimate_s=self._finished_estimate_s,
            n_slots=self._slots(),
            stopping=self._stop.level > 0,
        )

    def _slots(self) -> int:
        """Count attempts that run at once, by what the next in line asks for."""
        tasks = [*(f.task for f in self._flights.values()), *self._queue[:1]]
        if not tasks:
            return 1
        return max(1, *(self._executor.slots(t.resources) for t in tasks))

    def _submit_due(self) -> None:
        """Hand over what is due, as long as few attempts wait at the executor."""
        now = self._clock()
        for task in list(self._queue):
            room = self._executor.slots(task.resources) + AHEAD
            if len(self._flights) >= room:
                return
            if task.kind == "timing" and self._quality_pending():
                return
            if task.due_s <= now:
                self._queue.remove(task)
                self._submit(task, now)

    def _quality_pending(self) -> bool:
        """Whether attempts of quality suites are running or due: timing comes after them."""
        flying = any(f.task.kind == "quality" for f in self._flights.values())
        return flying or any(t.kind == "quality" for t in self._queue)

    def _submit(self, task: Task, now: float) -> None:
        task.number += 1
        attempt_id = uuid.uuid4().hex[:16]
        folder = self._ledger.folder
        cell = task.entry.cell
        job = Job(
            folder=str(folder.path.absolute()),
            cell=cell,
            suites=task.suites,
            attempt_id=attempt_id,
            number=task.number,
            log=folder.relative(folder.log_file(cell.id, attempt_id)),
            data=self._settings.data,
            device="cuda" if task.resources.num_gpus else "cpu",
            batch_tokens=task.batch_tokens,
            num_cpus=task.resources.num_cpus,
            offline=self._settings.offline,
            capture=self._executor.captures,
        )
        self._flights[attempt_id] = Flight(task, job, now)
        self._executor.submit(job, task.resources)

    def _settle(self, ended: Ended) -> None:
        """Commit what an ended attempt wrote, and retry or give up what it did not."""
        flight = self._flights.pop(ended.attempt_id, None)
        if flight is None:
            return
        now = self._clock()
        failures = self._failures(flight, ended)
        done = self._commit(flight, failures)
        again: list[Suite] = []
        wait_s = 0.0
        for failure in failures:
            retry = self._judge(flight, failure)
            if retry is None:
                continue
            again += [s for s in flight.task.suites if s.id in failure.suites]
            wait_s = max(wait_s, retry)
        seconds = flight.seconds(now)
        if done:
            self._summary.n_done += 1
            self._finished_s += seconds
            self._finished_estimate_s += flight.task.seconds or 0.0
            self._display.attempt_done(flight.job, done, seconds)
        if again:
            task = flight.task
            task.suites, task.due_s = tuple(again), now + wait_s
            # A retry comes first: what it waited for is over, and its cell is nearly done.
            self._queue.insert(0, task)

    def _failures(self, flight: Flight, ended: Ended) -> list[SuiteFailure]:
        """Say why suites have no numbers, also where the process is gone."""
        if ended.outcome is not None:
            return [
                SuiteFailure(tuple(f["suites"]), f["error_class"], f["message"])
                for f in ended.outcome["failures"]
            ]
        assert ended.error is not None, "an attempt ended with neither outcome nor error"
        kind, message = policy.classify(ended.error), policy.message_of(ended.error)
        if flight.overdue:
            minutes = flight.task.entry.timeout_s / 60
            kind, message = "timeout", f"still running after {minutes:g} min and ended"
        missing = tuple(s.id for s in flight.task.suites if not self._is_whole(flight.job, s))
        failures = [SuiteFailure(missing, kind, message)] if missing else []
        if kind != "cancelled":
            record_death(flight.job, failures, took_s=flight.seconds(self._clock()))
        return failures

    def _is_whole(self, job: Job, suite: Suite) -> bool:
        folder = self._ledger.folder
        return folder.mark_file(job.cell.id, job.attempt_id, suite.id).exists()

    def _commit(self, flight: Flight, failures: list[SuiteFailure]) -> tuple[Suite, ...]:
        """Commit every suite that the attempt left whole; a damaged one joins `failures`."""
        job = flight.job
        failed = {suite for failure in failures for suite in failure.suites}
        done = []
        for suite in job.suites:
            if suite.id in failed:
                continue
            try:
                mark = attempts.read_mark(
                    self._ledger.folder, job.cell.id, job.attempt_id, suite.id
                )
            except StoreError as error:
                failures.append(SuiteFailure((suite.id,), "crashed", str(error)))
                continue
            self._ledger.commit(mark)
            done.append(suite)
        return tuple(done)

    def _judge(self, flight: Flight, failure: SuiteFailure) -> float | None:
        """Note a failure; give the pause before a retry, or None if there is to be none."""
        kind = failure.error_class
        task, job = flight.task, flight.job
        if kind == "cancelled" and self._stop.level:
            self._queue.append(task)
            return None
        if kind == "cancelled":
            # Not by us: somebody else ended the task.
            kind = "crashed"
        rule = policy.POLICY[kind]
        final = task.spent[kind] >= rule.retries
        self._ledger.append(
            {
                "event": "failed",
                "cell": job.cell.id,
                "suites": list(failure.suites),
                "attempt": job.attempt_id,
                "error_class": kind,
                "message": failure.message,
                "log": job.log,
                "final": final,
            }
        )
        if final:
            suites = tuple(s for s in job.suites if s.id in failure.suites)
            lost = Lost(task.entry, suites, kind, failure.message, job.log)
            self._summary.lost.append(lost)
            self._display.attempt_failed(job, suites, kind, failure.message)
            return None
        pause_s = policy.wait_s(kind, task.spent[kind])
        task.spent[kind] += 1
        self._summary.n_retried += 1
        if rule.change == "halve_batch":
            task.batch_tokens = policy.halved(task.batch_tokens)
        self._display.attempt_retried(job, kind, failure.message, pause_s)
        return pause_s

    def _drop_waiting(self) -> None:
        """Take back what waits at the executor; what runs may finish."""
        for flight in self._flights.values():
            if flight.started_s is None:
                self._executor.cancel(flight.job.attempt_id, force=False)

    def _abandon(self) -> None:
        """End what still runs; its cells are still to do."""
        for attempt_id, flight in self._flights.items():
            if not self._executor.dies_with_driver:
                self._executor.cancel(attempt_id, force=True)
            self._queue.append(flight.task)
        self._flights.clear()


def _log_path(job: Job) -> Path:
    return Path(job.folder) / job.log
