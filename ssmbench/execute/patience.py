"""How long an attempt is waited for: its deadline, its signs of life, and its end on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench.execute import policy
from ssmbench.execute.executor import Ended
from ssmbench.execute.task import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ssmbench.execute.executor import Executor, Sign
    from ssmbench.execute.policy import ErrorClass
    from ssmbench.execute.task import Flight


class Patience:
    """Ends attempts that are late or silent, and gives up those that cannot be ended."""

    def __init__(self, executor: Executor) -> None:
        """Watch the attempts of an executor."""
        self._executor = executor

    def watch(self, flight: Flight, sign: Sign | None, now: float) -> None:
        """End an attempt that is past its timeout, or that is not heard of any more."""
        if flight.verdict is not None or flight.started_s is None:
            return
        limit_s = flight.task.entry.timeout_s
        if now - flight.started_s > limit_s:
            message = f"still running after {limit_s / 60:g} min and ended"
            self._end(flight, "timeout", message, now)
        elif sign is not None and self._is_silent(sign):
            message = f"no sign of life for {sign.silent_s:.0f} s"
            self._end(flight, "node_lost", message, now)

    def given_up(self, flights: Iterable[Flight], now: float) -> list[Ended]:
        """Give the attempts that were told to end and from which nothing comes back.

        Whatever they still write is fenced: no flight, no commit.
        """
        found = []
        for flight in flights:
            if flight.verdict is None:
                continue
            gone = flight.node is not None and not self._executor.is_reachable(flight.node)
            if gone or now - flight.verdict.since_s > policy.OVERDUE_S:
                found.append(Ended(flight.job.attempt_id, None, None, flight.node))
        return found

    def _is_silent(self, sign: Sign) -> bool:
        if sign.silent_s > policy.SILENT_S:
            return True
        quiet = sign.silent_s > policy.SILENT_UNREACHABLE_S and sign.node is not None
        return quiet and not self._executor.is_reachable(str(sign.node))

    def _end(self, flight: Flight, kind: ErrorClass, message: str, now: float) -> None:
        flight.verdict = Verdict(kind, message, now)
        self._executor.cancel(flight.job.attempt_id, force=True)
