"""Every report of a run, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench import plugins
from ssmbench.store.read import tables

if TYPE_CHECKING:
    from ssmbench.report._table import Table
    from ssmbench.store.folder import RunFolder


def build_all(folder: RunFolder) -> list[Table]:
    """Build the tables of every report file: a pure function of the run's Parquet tables.

    Raises:
        StoreError: the run folder is damaged.
    """
    frames = tables(folder)
    modules = [plugins.load("report", name) for name in plugins.names("report")]
    made: list[Table] = []
    for module in sorted(modules, key=lambda m: m.ORDER):
        made += module.build(frames)
    return made
