"""What a run folder already holds, as the plan needs it: nothing is read from disk here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ssmbench.plan.cells import Cell, Suite

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Failure(NamedTuple):
    """How a suite of a cell last ended without numbers, retries included.

    `error_class` is the retry policy's ("gpu_oom", "numerical", ...), `message` one sentence
    for people, `log` the path of the worker's log relative to the run folder, or None.
    """

    error_class: str
    message: str
    log: str | None


@dataclass
class History:
    """Everything that the ledger of a run folder says, merged.

    Attributes:
        cells: cell id -> `Cell.to_json()`, in the order in which they were first planned.
        committed: (cell id, suite id) -> id of the attempt whose numbers count.
        failed: (cell id, suite id) -> its final failure; a later commit removes it. A failure
            that was to be retried is not here: the suite is simply still to do.
        seconds: (cell id, suite id) -> how long the committed suite took, where known.
        wanted: cell id -> ids of the suites that the last grid naming the cell asked for.
        suites: suite id -> `Suite.to_json()`.
        attempts: cell id -> how many attempts the ledger has seen end.
    """

    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    committed: dict[tuple[str, str], str] = field(default_factory=dict)
    failed: dict[tuple[str, str], Failure] = field(default_factory=dict)
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    wanted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    suites: dict[str, dict[str, Any]] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)


class Records:
    """A history's cells and suites as values, each read once."""

    def __init__(self, history: History) -> None:
        """Read nothing yet.

        Args:
            history: what the run folder holds; must not change meanwhile.
        """
        self._history = history
        self._cells: dict[str, Cell | None] = {}
        self._suites: dict[str, Suite | None] = {}

    def cell(self, cell_id: str) -> Cell | None:
        """Give a past cell; None if its record is of a form that this version does not know."""
        if cell_id not in self._cells:
            self._cells[cell_id] = _read(Cell.from_json, self._history.cells.get(cell_id))
        return self._cells[cell_id]

    def suite(self, suite_id: str) -> Suite | None:
        """Give a past suite; None if its record is of a form that this version does not know."""
        if suite_id not in self._suites:
            self._suites[suite_id] = _read(Suite.from_json, self._history.suites.get(suite_id))
        return self._suites[suite_id]


def _read(read: Callable[[dict[str, Any]], T], record: dict[str, Any] | None) -> T | None:
    try:
        return None if record is None else read(record)
    except (KeyError, TypeError):
        return None
