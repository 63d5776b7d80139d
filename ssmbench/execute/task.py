"""What the driver keeps in its hands: work still to do, work that runs, how it all ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.execute.executor import Demand
    from ssmbench.execute.job import Job
    from ssmbench.execute.policy import ErrorClass
    from ssmbench.plan.cells import Entry, Kind, Resources, Suite


@dataclass(eq=False)
class Task:
    """One cell's suites of one kind that are still to do, over all its attempts.

    `seconds` is the plan's estimate of an attempt; `number` counts attempts of the cell;
    `spent` counts retries by error class; `due_s` is when the next attempt may start, by the
    driver's clock; `avoid` are the machines that it was lost on, and `min_memory_bytes` is
    more than what was not enough.
    """

    entry: Entry
    suites: tuple[Suite, ...]
    seconds: float | None
    batch_tokens: int
    number: int = 0
    spent: Counter[ErrorClass] = field(default_factory=Counter)
    due_s: float = 0.0
    avoid: frozenset[str] = frozenset()
    min_memory_bytes: float = 0.0

    @property
    def kind(self) -> Kind:
        """What its suites measure."""
        return self.suites[0].kind

    @property
    def resources(self) -> Resources:
        """What each of its attempts is given."""
        return self.entry.resources_for(self.kind)


class Lost(NamedTuple):
    """Suites of a cell that ended without numbers, for the summary."""

    entry: Entry
    suites: tuple[Suite, ...]
    error_class: str
    message: str
    log: str


@dataclass
class Summary:
    """What a run did: attempts that committed suites, what failed for good, what is left.

    `done_s` and `done_estimate_s` are sums over the attempts that committed suites.
    `stopped`: why the driver ended the run itself, or None. `left_behind`: attempts were still
    running on a Ray that ends with this process.
    """

    n_done: int = 0
    n_retried: int = 0
    lost: list[Lost] = field(default_factory=list)
    n_left: int = 0
    done_s: float = 0.0
    done_estimate_s: float = 0.0
    seconds: float = 0.0
    stopped: str | None = None
    left_behind: bool = False


class Settings(NamedTuple):
    """What every job of a run shares."""

    data: str | None
    offline: bool


class Verdict(NamedTuple):
    """Why the driver ends an attempt that has not ended itself, and since when it waits."""

    error_class: ErrorClass
    message: str
    since_s: float


@dataclass
class Flight:
    """An attempt that the executor has: since when, begun or not, and where.

    Times are the driver's clock's. `recalled`: it waits with demands that are out of date and
    was taken back.
    """

    task: Task
    job: Job
    demand: Demand
    submitted_s: float
    started_s: float | None = None
    node: str | None = None
    verdict: Verdict | None = None
    recalled: bool = False

    def seconds(self, now: float) -> float:
        """Give how long it has been at work, or waiting if it has not begun."""
        return now - (self.submitted_s if self.started_s is None else self.started_s)


def tasks_of(
    entry: Entry, suites: Sequence[Suite], *, seconds: float | None, attempts_before: int
) -> list[Task]:
    """Make one task for each kind among a cell's missing suites, sharing the estimate."""
    by_kind: Mapping[Kind, list[Suite]] = {"quality": [], "timing": []}
    for suite in suites:
        by_kind[suite.kind].append(suite)
    return [
        Task(
            entry=entry,
            suites=tuple(found),
            seconds=None if seconds is None else seconds * len(found) / len(suites),
            batch_tokens=entry.batch_tokens,
            number=attempts_before,
        )
        for found in by_kind.values()
        if found
    ]
