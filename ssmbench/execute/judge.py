"""What follows from how an attempt ended: commits, retries, failures, and what they add up to."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError, UnreachableError
from ssmbench.execute import policy
from ssmbench.execute.job import Job, SuiteFailure
from ssmbench.execute.outcomes import record_death
from ssmbench.execute.task import Flight, Lost, Summary, Task
from ssmbench.store import attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ssmbench.execute.executor import Ended
    from ssmbench.execute.health import Health, Poison
    from ssmbench.execute.placing import Placing
    from ssmbench.execute.policy import ErrorClass
    from ssmbench.execute.progress import Display
    from ssmbench.plan.cells import Suite
    from ssmbench.store.ledger import Ledger


class Judge:
    """Writes the ledger; keeps what is to be said until `tell`, when the ledger has it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        display: Display,
        summary: Summary,
        health: Health,
        placing: Placing,
    ) -> None:
        """Judge attempts for a driver, which reads `summary` and `health`."""
        self._ledger, self._display, self._summary = ledger, display, summary
        self._health, self._placing = health, placing
        self._sayings: list[Callable[[], None]] = []

    def settle(self, flight: Flight, ended: Ended, now: float) -> Task | None:
        """Commit what an ended attempt wrote, and say how it ended.

        Returns:
            The task, with what is still to do of it and from when on; None if nothing is.
        """
        task, job = flight.task, flight.job
        flight.node = ended.node or flight.node
        seconds = _seconds(flight, ended, now)
        failures = self._failures(flight, ended, seconds)
        done = self._commit(job, failures)
        if done:
            self._health.succeeded(task, flight.node)
            self._summary.n_done += 1
            self._summary.done_s += seconds
            self._summary.done_estimate_s += task.seconds or 0.0
        again: list[Suite] = []
        wait_s = 0.0
        for failure in failures:
            retry_s = self._judge(flight, failure)
            if retry_s is not None:
                again += [s for s in task.suites if s.id in failure.suites]
                wait_s = max(wait_s, retry_s)
        if done:
            self._say(self._display.attempt_done, job, done, seconds)
        if not again:
            return None
        task.suites, task.due_s = tuple(again), now + wait_s
        return task

    def left(self, flight: Flight) -> bool:
        """Commit what an attempt has written that was ended on request; whether any is left."""
        missing = [s for s in flight.task.suites if not self._is_whole(flight.job, s)]
        failures = [SuiteFailure(tuple(s.id for s in missing), "cancelled", "")]
        self._commit(flight.job, failures)
        flight.task.suites = tuple(missing)
        return bool(missing)

    def conclude(self, queue: Sequence[Task], flights: Iterable[Flight]) -> list[Task]:
        """Act on what failures add up to: machines in quarantine, methods that stop, or all.

        Returns:
            What is still to be tried of the queue.
        """
        todo = [*queue, *(flight.task for flight in flights)]
        for node, cells in self._health.suspects().items():
            if self._placing.can_spare(node, todo):
                self._health.quarantine(node, cells)
                self._record(
                    "quarantined",
                    f"{self._placing.name(node)}: {len(cells)} cells in a row failed there;"
                    " nothing more is given to it in this run",
                    node=node,
                    host=self._placing.host(node),
                    cells=[cell.id for cell in cells],
                )
        hopeless = self._health.hopeless()
        if hopeless and todo and self._summary.stopped is None:
            self._summary.stopped = (
                f"{len(hopeless)} cells in a row failed in every attempt by their machines' fault,"
                " and no machine has shown that it does better: the run stops before the rest fails"
            )
            self._record("stopped", self._summary.stopped)
        left = list(queue)
        for poison in self._health.poisons:
            for task in [t for t in left if poison.covers(t)]:
                self._stop(task, poison)
            left = [t for t in left if not poison.covers(t)]
        return left

    def _stop(self, task: Task, poison: Poison) -> None:
        """Give a task up whose method is poisoned."""
        cell = task.entry.cell
        method = poison.trade[0]
        message = (
            f"not tried: {method} failed alike on {len(poison.nodes)} machines"
            f" ({poison.error_class}: {poison.message})"
        )
        self._ledger.append(
            {
                "event": "failed",
                "cell": cell.id,
                "suites": [s.id for s in task.suites],
                "attempt": None,
                "error_class": "poisoned",
                "message": message,
                "log": poison.log,
                "final": True,
            }
        )
        lost = Lost(task.entry, task.suites, "poisoned", message, poison.log)
        self._summary.lost.append(lost)

    def _record(self, event: str, text: str, **facts: Any) -> None:
        """Note a decision about machines or methods in the ledger, and tell it."""
        self._ledger.append({"event": event, "message": text, **facts})
        self._say(self._display.note, text)

    def tell(self) -> None:
        """Say what has been decided since the last time."""
        sayings, self._sayings = self._sayings, []
        for say in sayings:
            say()

    def _say(self, say: Callable[..., None], *args: Any) -> None:
        self._sayings.append(partial(say, *args))

    def _failures(self, flight: Flight, ended: Ended, seconds: float) -> list[SuiteFailure]:
        """Say why suites have no numbers, also where the process is gone."""
        if ended.outcome is not None:
            return [
                SuiteFailure(tuple(f["suites"]), f["error_class"], f["message"])
                for f in ended.outcome["failures"]
            ]
        if flight.verdict is not None:
            kind, message = flight.verdict.error_class, flight.verdict.message
        else:
            assert ended.error is not None, "an attempt ended with neither outcome nor error"
            message = policy.message_of(ended.error)
            kind = policy.in_view_of(policy.classify(ended.error), ended.fate)
            # Not by us: somebody else ended the task.
            kind = "crashed" if kind == "cancelled" else kind
        missing = tuple(s.id for s in flight.task.suites if not self._is_whole(flight.job, s))
        failures = [SuiteFailure(missing, kind, message)] if missing else []
        host = self._placing.host(flight.node)
        record_death(flight.job, failures, took_s=seconds, host=host)
        return failures

    def _is_whole(self, job: Job, suite: Suite) -> bool:
        folder = self._ledger.folder
        return folder.mark_file(job.cell.id, job.attempt_id, suite.id).exists()

    def _commit(self, job: Job, failures: list[SuiteFailure]) -> tuple[Suite, ...]:
        """Commit every suite that the attempt left whole; a damaged one joins `failures`."""
        failed = {suite for failure in failures for suite in failure.suites}
        folder = self._ledger.folder
        done = []
        for suite in job.suites:
            if suite.id in failed:
                continue
            try:
                mark = attempts.read_mark(folder, job.cell.id, job.attempt_id, suite.id)
            except UnreachableError:
                raise  # Nobody knows whether it is there; the next start will.
            except StoreError as error:
                failures.append(SuiteFailure((suite.id,), "crashed", str(error)))
                continue
            self._ledger.commit(mark, verified=True)
            done.append(suite)
        return tuple(done)

    def _judge(self, flight: Flight, failure: SuiteFailure) -> float | None:
        """Note a failure; give the pause before a retry, or None if there is to be none."""
        kind, task, job = failure.error_class, flight.task, flight.job
        final = task.spent[kind] >= policy.POLICY[kind].retries
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
                "node": flight.node,
                "host": self._placing.host(flight.node),
            }
        )
        self._health.failed(task, flight.node, kind, final=final)
        if final:
            suites = tuple(s for s in job.suites if s.id in failure.suites)
            lost = Lost(task.entry, suites, kind, failure.message, job.log)
            self._summary.lost.append(lost)
            self._say(self._display.attempt_failed, job, suites, kind, failure.message)
            found = self._health.poisoned_by(task, flight.node, kind, failure.message, job.log)
            if found is not None:
                self._poison(found)
            return None
        pause_s = policy.wait_s(kind, task.spent[kind])
        task.spent[kind] += 1
        self._summary.n_retried += 1
        self._change(task, flight.node, kind)
        self._say(self._display.attempt_retried, job, kind, failure.message, pause_s)
        return pause_s

    def _change(self, task: Task, node: str | None, kind: ErrorClass) -> None:
        """Prepare a task for a retry that has a chance to end otherwise."""
        change = policy.POLICY[kind].change
        if change == "elsewhere" and node is not None:
            task.avoid |= {node}
        elif change == "halve_batch" or (
            change == "more_memory" and not self._placing.grow(task, node)
        ):
            task.batch_tokens = policy.halved(task.batch_tokens)

    def _poison(self, found: Poison) -> None:
        method, kind = found.trade
        of = "" if found.models is None else f" on {', '.join(sorted(found.models))}"
        text = (
            f"{method}{of}: the same error on {len(found.nodes)} machines"
            f" ({found.error_class}: {found.message}); its other cells are not tried."
            " --retry-failed tries them again."
        )
        facts = {"method": method, "kind": kind, "nodes": list(found.nodes)}
        models = None if found.models is None else sorted(found.models)
        self._record("poisoned", text, models=models, **facts)


def _seconds(flight: Flight, ended: Ended, now: float) -> float:
    """Give how long an attempt worked: by its own account, or as the driver saw it."""
    if ended.outcome is not None:
        return float(ended.outcome["ended_s"] - ended.outcome["started_s"])
    return flight.seconds(now)
