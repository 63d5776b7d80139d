"""What failures say about machines and methods, beyond the cells that they hit (see `policy`).

Nothing here acts: the driver asks who is suspect and does what follows.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from ssmbench.execute import policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ssmbench.execute.policy import ErrorClass
    from ssmbench.execute.task import Task
    from ssmbench.plan.cells import Cell, Kind
    from ssmbench.plan.history import History

# A method's attempts at suites of one kind: latency may fail where perplexity does not.
Trade = tuple[str, "Kind"]


class Poison(NamedTuple):
    """A method that failed alike on several machines, and what shows it.

    `models` are those whose cells stop; None for all. `log` is that of the last failure.
    """

    trade: Trade
    models: frozenset[str] | None
    nodes: tuple[str, ...]
    error_class: ErrorClass
    message: str
    log: str

    def covers(self, task: Task) -> bool:
        """Whether the task's cell is not to be tried."""
        model = task.entry.cell.model.name
        return trade_of(task) == self.trade and (self.models is None or model in self.models)


class _Failures(NamedTuple):
    """Where and with which models one error of one method was seen."""

    nodes: set[str]
    models: set[str]


class Health:
    """Counts failures by machine and by method; a success clears what it disproves."""

    def __init__(self, *, proven: Iterable[Trade] = (), n_methods: int = 1) -> None:
        """Know of no failure.

        Args:
            proven: methods that have brought numbers before.
            n_methods: how many methods the run has.
        """
        self.quarantined: dict[str, tuple[Cell, ...]] = {}
        self.poisons: list[Poison] = []
        self._proven = set(proven)
        self._n_methods = n_methods
        # node -> the cells that crashed there since its last success; cell id -> where it did.
        self._crashed: defaultdict[str, dict[str, Cell]] = defaultdict(dict)
        self._places: defaultdict[str, set[str]] = defaultdict(set)
        # Cells given up after crashes since the last success anywhere.
        self._lost: dict[str, Cell] = {}
        self._methods: defaultdict[tuple[Trade, str], _Failures] = defaultdict(
            lambda: _Failures(set(), set())
        )

    def succeeded(self, task: Task, node: str | None) -> None:
        """Note that an attempt brought numbers."""
        self._proven.add(trade_of(task))
        self._lost.clear()
        if node is not None:
            self._crashed.pop(node, None)

    def failed(self, task: Task, node: str | None, kind: ErrorClass, *, final: bool) -> None:
        """Note that an attempt failed, and whether its cell is given up."""
        if policy.POLICY[kind].blames != "node":
            return
        cell = task.entry.cell
        if final:
            self._lost[cell.id] = cell
        if node is not None:
            self._crashed[node][cell.id] = cell
            self._places[cell.id].add(node)

    def suspects(self) -> Mapping[str, tuple[Cell, ...]]:
        """Give the machines that are to be quarantined, with the cells that crashed there."""
        found = {}
        for node, crashed in self._crashed.items():
            cells = tuple(c for c in crashed.values() if self._places[c.id] == {node})
            if len(cells) >= policy.SUSPECT_CELLS and node not in self.quarantined:
                found[node] = cells
        return found

    def quarantine(self, node: str, cells: tuple[Cell, ...]) -> None:
        """Give nothing more to a machine."""
        self.quarantined[node] = cells

    def hopeless(self) -> tuple[Cell, ...]:
        """Give the cells in a row that crashed to the last, if they are too many to go on.

        Where the run has several methods, one method's crashes are not enough.
        """
        cells = tuple(self._lost.values())
        methods = {cell.method for cell in cells}
        enough = len(cells) >= policy.SUSPECT_CELLS and len(methods) >= min(2, self._n_methods)
        return cells if enough else ()

    def poisoned_by(
        self, task: Task, node: str | None, kind: ErrorClass, message: str, log: str
    ) -> Poison | None:
        """Note a failure that may be the method's, and give what has to stop because of it."""
        trade = trade_of(task)
        if policy.POLICY[kind].blames != "method" or node is None or trade in self._proven:
            return None
        seen = self._methods[trade, policy.signature(kind, message)]
        seen.nodes.add(node)
        seen.models.add(task.entry.cell.model.name)
        if len(seen.nodes) < policy.POISON_NODES or self.is_poisoned(task):
            return None
        models = frozenset(seen.models) if len(seen.models) == 1 else None
        found = Poison(trade, models, tuple(sorted(seen.nodes)), kind, message, log)
        self.poisons.append(found)
        return found

    def is_poisoned(self, task: Task) -> bool:
        """Whether the task's method failed alike on several machines."""
        return any(poison.covers(task) for poison in self.poisons)


def trade_of(task: Task) -> Trade:
    """Give the task's method and what its suites measure."""
    return task.entry.cell.method, task.kind


def proven_by(history: History) -> set[Trade]:
    """Give the methods that have brought numbers, by what a run folder holds."""
    found = set()
    for cell_id, suite_id in history.committed:
        cell, suite = history.cells.get(cell_id), history.suites.get(suite_id)
        if cell and suite:
            method = "+".join(step["name"] for step in cell["steps"])
            found.add((method, suite["kind"]))
    return found
