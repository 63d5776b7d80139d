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
    from collections.abc import Sequence

    from ssmbench.execute.policy import Fate
    from ssmbench.plan.cells import Resources

# What a worker calls, as "module:function", so that tests can run something else.
ATTEMPT = "ssmbench.execute.attempt:run_attempt"

Attempt = Callable[[Job, Report], dict[str, Any]]


class Demand(NamedTuple):
    """What an attempt needs of the machine that it is given to.

    `alone`: it measures time, so its GPUs are its own or, without one, its whole machine.
    `avoid`: ids of machines that it must not run on.
    """

    resources: Resources
    alone: bool = False
    avoid: frozenset[str] = frozenset()


class Node(NamedTuple):
    """A living machine of the cluster: its id, its host's name, its memory in bytes."""

    id: str
    host: str
    memory_bytes: float


class Ended(NamedTuple):
    """How an attempt ended: with its outcome, or without one, its process being gone.

    `node` is the id of the machine that it ran on, `fate` what has become of that; None where
    nobody knows.
    """

    attempt_id: str
    outcome: Mapping[str, Any] | None
    error: BaseException | None
    node: str | None = None
    fate: Fate | None = None


class Step(NamedTuple):
    """The last thing heard of a running attempt; `total` 0 means "not known".

    `note` is what the step says of itself; where it does, it tells its own rate and time left.
    """

    name: str
    done: int
    total: int
    note: str = ""


class Sign(NamedTuple):
    """A running attempt's last sign of life: its step, its machine, how many seconds ago."""

    step: Step
    node: str | None = None
    silent_s: float = 0.0


class Executor(Protocol):
    """Runs attempts somewhere."""

    @property
    def captures(self) -> bool:
        """Whether an attempt's process may send all that it prints to its log."""

    @property
    def dies_with_driver(self) -> bool:
        """Whether all attempts end by themselves when the driver's process does."""

    def check(self, resources: Resources) -> str | None:
        """Say why no machine here can give these resources; None if one can."""

    def nodes(self, resources: Resources) -> Sequence[Node]:
        """List the living machines that can give these resources, once they are idle."""

    def slots(self, demand: Demand) -> int:
        """Count how many attempts with this demand run at once; 0 if no machine fits now."""

    def submit(self, job: Job, demand: Demand) -> None:
        """Start an attempt as soon as there is room."""

    def poll(self, timeout_s: float) -> list[Ended]:
        """Wait up to `timeout_s` for attempts to end and give those that did."""

    def cancel(self, attempt_id: str, *, force: bool) -> None:
        """Take an attempt from the queue, or with `force` end its process at once.

        It is still given by `poll`, with a cancellation as its error (or, if it was faster,
        with its outcome), unless its machine cannot be reached.
        """

    def signs(self) -> Mapping[str, Sign]:
        """Give the last sign of life of each running attempt; may be late, may lack some."""

    def is_reachable(self, node: str) -> bool:
        """Whether a machine belongs to the cluster and answers at this moment."""

    def close(self) -> None:
        """End everything that this executor started."""


def load_attempt(target: str) -> Attempt:
    """Import what "module:function" names."""
    module, _, name = target.partition(":")
    found: Attempt = getattr(importlib.import_module(module), name)
    return found
