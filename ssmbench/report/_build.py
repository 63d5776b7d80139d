"""Every report of one run or several, in order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssmbench import plugins
from ssmbench.report._results import Results
from ssmbench.report._table import Table
from ssmbench.store.read import tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from ssmbench.report._figure import Figure
    from ssmbench.report._provenance import Provenance
    from ssmbench.store.folder import RunFolder


@dataclass(frozen=True)
class Group:
    """What one report file gave: its TITLE, its module's name, its tables and figures."""

    title: str
    name: str
    items: tuple[Table | Figure, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """Its tables, in order."""
        return tuple(item for item in self.items if isinstance(item, Table))


@dataclass(frozen=True)
class Report:
    """All that a renderer needs.

    Attributes:
        title: the names of the run folders.
        groups: in order; none is empty, and no two tables or figures have the same name.
        provenance: where the numbers are from.
    """

    title: str
    groups: tuple[Group, ...]
    provenance: Provenance

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table, in order."""
        return tuple(table for group in self.groups for table in group.tables)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Every figure, in order."""
        return tuple(i for g in self.groups for i in g.items if not isinstance(i, Table))


def build_report(results: Results) -> Report:
    """Build the tables and figures of every report file.

    Raises:
        StoreError: the run folder is damaged.
    """
    names = _Names()
    groups = [
        Group(module.TITLE, name, tuple(map(names.distinct, module.build(results))))
        for name, module in _modules()
    ]
    return Report(
        title=" + ".join(source.name for source in results.sources) or "Report",
        groups=tuple(group for group in groups if group.items),
        provenance=results.provenance,
    )


def build_items(results: Results) -> list[Table | Figure]:
    """Build the tables and figures of every report file as one list."""
    return [item for group in build_report(results).groups for item in group.items]


def build_all(folder: RunFolder) -> list[Table]:
    """Build the tables of every report file: a pure function of the run's Parquet tables."""
    return [item for item in build_items(Results(tables(folder))) if isinstance(item, Table)]


def _modules() -> Sequence[tuple[str, ModuleType]]:
    loaded = [(name, plugins.load("report", name)) for name in plugins.names("report")]
    return sorted(loaded, key=lambda pair: pair[1].ORDER)


class _Names:
    """Names of files and anchors: one that is taken gets a number."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def distinct(self, item: Table | Figure) -> Table | Figure:
        name, number = item.name, 1
        while name.lower() in self._taken:  # Some file systems do not tell `A` from `a`.
            number += 1
            name = f"{item.name}-{number}"
        self._taken.add(name.lower())
        return item if name == item.name else dataclasses.replace(item, name=name)
