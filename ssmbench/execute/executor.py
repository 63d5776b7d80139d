"""Where attempts run: one protocol, two implementations (`inline` and `ray`).

An executor starts attempts and tells how each ended. It decides nothing: order, deadlines,
retries and what counts are the driver's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ssmbench.execute.job import Job, Report

if TYPE_CHECKING:
    from ssmbench.plan.cells import Resources

# What a worker calls, as "module:function", so that tests can run something else.
ATTEMPT = "ssmbench.execute.attempt:run_attempt"

Attempt = Callable[[Job, Report], dict[str, Any]]


class Ended(NamedTuple):
    """How an attempt ended: with its outcome, or without one, its process being gone."""

    attempt_id: str
    outcome: Mapping[str, Any] | None
    error: BaseException | None


class Step(NamedTuple):
    """The last thing heard of a running attempt; `total` 0 means "not known"."""

    name: str
    done: int
    total: int


class Executor(Protocol):
    """Runs attempts somewhere."""

    @property
    def captures(self) -> bool:
        """Whether an attempt's process may send all that it prints to its log."""

    @property
    def dies_with_driver(self) -> bool:
        """Whether all attempts end by themselves when the driver's process does."""

    def check(self, resources: Resources) -> str | None:
        """Say why no machine here can ever give these resources; None if one can."""

    def slots(self, resources: Resources) -> int:
        """Count how many attempts with these resources run at once."""

    def submit(self, job: Job, resources: Resources) -> None:
        """Start an attempt as soon as there is room; a timing attempt alone on its machine."""

    def poll(self, timeout_s: float) -> list[Ended]:
        """Wait up to `timeout_s` for attempts to end and give those that did."""

    def cancel(self, attempt_id: str, *, force: bool) -> None:
        """Take an attempt from the queue, or with `force` end its process at once.

        It is still given by `poll`, with a cancellation as its error (or, if it was faster,
        with its outcome).
        """

    def steps(self) -> Mapping[str, Step]:
        """Give the last step heard of each running attempt; may be late, may lack some."""

    def close(self) -> None:
        """End everything that this executor started."""


def load_attempt(target: str) -> Attempt:
    """Import what "module:function" names."""
    module, _, name = target.partition(":")
    found: Attempt = getattr(importlib.import_module(module), name)
    return found
