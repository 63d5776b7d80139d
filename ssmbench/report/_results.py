"""A run's tables, and what every report derives from them: computed once, when first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from ssmbench.report._panels import find_panels
from ssmbench.report._rows import make_rows
from ssmbench.report._scores import scores

if TYPE_CHECKING:
    import polars as pl

    from ssmbench.report._panels import Panel
    from ssmbench.report._rows import Rows
    from ssmbench.report._scores import Key, Score


class Results(Mapping[str, "pl.LazyFrame"]):
    """The tables by name, as `ssmbench.store.read.tables` gives them, and their derivatives.

    Args:
        frames: the tables of one run, or of several joined.
    """

    def __init__(self, frames: Mapping[str, pl.LazyFrame]) -> None:
        self._frames = frames

    def __getitem__(self, name: str) -> pl.LazyFrame:
        return self._frames[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    @cached_property
    def cells(self) -> pl.DataFrame:
        """The table `cells`, read."""
        return self["cells"].collect()

    @cached_property
    def rows(self) -> Rows:
        """The rows of every table: cells that differ by their seed alone are one."""
        return make_rows(self.cells)

    @cached_property
    def panels(self) -> list[Panel]:
        """Which metrics stand together, in the order in which they were measured."""
        return find_panels(self["metrics"], self["samples"])

    @cached_property
    def scores(self) -> dict[Key, Score]:
        """Every row's score on every task, with its difference to the dense row."""
        return scores(self["metrics"], self["samples"], self.rows.frame)
