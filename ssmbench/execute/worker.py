"""What runs on Ray's side: an attempt in its worker, and the board that it tells its steps to."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from ssmbench.execute.executor import load_attempt
from ssmbench.execute.job import Job

if TYPE_CHECKING:
    from collections.abc import Mapping

_REPORT_EVERY_S = 0.25


class Board:
    """The actor that running attempts tell their steps to; losing it loses only the display."""

    def __init__(self) -> None:
        """Start empty."""
        self._steps: dict[str, tuple[str, int, int]] = {}

    def put(self, attempt_id: str, step: tuple[str, int, int] | None) -> None:
        """Note an attempt's step; None when it has ended."""
        if step is None:
            self._steps.pop(attempt_id, None)
        else:
            self._steps[attempt_id] = step

    def snapshot(self) -> dict[str, tuple[str, int, int]]:
        """Give the last step of each running attempt."""
        return self._steps


def work(target: str, job: Mapping[str, Any], board: Any) -> dict[str, Any]:
    """Run an attempt in a worker and tell the board its steps, a few each second."""
    told = ("", 0.0)
    attempt_id = job["attempt_id"]

    def tell(step: tuple[str, int, int] | None) -> None:
        # Whatever happens to the board is not the attempt's business.
        with contextlib.suppress(Exception):
            board.put.remote(attempt_id, step)

    def report(step: str, done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if step != told[0] or now - told[1] >= _REPORT_EVERY_S:
            told = (step, now)
            tell((step, done, total))

    report("start", 0, 0)
    try:
        return load_attempt(target)(Job.from_json(job), report)
    finally:
        tell(None)
