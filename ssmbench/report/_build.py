"""Every report of one run or several, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench import plugins
from ssmbench.report._results import Results
from ssmbench.report._table import Table
from ssmbench.store.read import tables

if TYPE_CHECKING:
    from ssmbench.report._figure import Figure
    from ssmbench.store.folder import RunFolder


def build_all(folder: RunFolder) -> list[Table]:
    """Build the tables of every report file: a pure function of the run's Parquet tables."""
    return [item for item in build_items(Results(tables(folder))) if isinstance(item, Table)]


def build_items(results: Results) -> list[Table | Figure]:
    """Build the tables and figures of every report file.

    Raises:
        StoreError: the run folder is damaged.
    """
    modules = [plugins.load("report", name) for name in plugins.names("report")]
    made: list[Table | Figure] = []
    for module in sorted(modules, key=lambda m: m.ORDER):
        made += module.build(results)
    return made
