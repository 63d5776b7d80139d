"""A run's tables, and what every report derives from them: computed once, when first asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from ssmbench.report._documents import PANEL, read_documents
from ssmbench.report._panels import find_panels
from ssmbench.report._points import all_facts
from ssmbench.report._provenance import provenance
from ssmbench.report._rows import make_rows
from ssmbench.report._scores import scores

if TYPE_CHECKING:
    from ssmbench.report._documents import Documents, Kind
    from ssmbench.report._panels import Panel
    from ssmbench.report._points import Facts
    from ssmbench.report._provenance import Provenance
    from ssmbench.report._rows import Rows
    from ssmbench.report._scores import Scores
    from ssmbench.report._source import Source

_LARGEST = "samples"


class Results(Mapping[str, "pl.LazyFrame"]):
    """The tables by name, as `ssmbench.store.read.tables` gives them, and their derivatives.

    Args:
        frames: the tables of one run, or of several joined.
        sources: the run folders that they are from, where known.
    """

    def __init__(
        self, frames: Mapping[str, pl.LazyFrame], sources: tuple[Source, ...] = ()
    ) -> None:
        self._frames = frames
        self._read: dict[str, pl.LazyFrame] = {}
        self.sources = sources

    def __getitem__(self, name: str) -> pl.LazyFrame:
        """Give a table; all but the largest are read once: attempts have files of their own."""
        if name == _LARGEST:
            return self._frames[name]
        if name not in self._read:
            self._read[name] = self._frames[name].collect().lazy()
        return self._read[name]

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
    def facts(self) -> list[Facts]:
        """What is known of every row beside its scores, in order."""
        return all_facts(self)

    @cached_property
    def panels(self) -> list[Panel]:
        """Which metrics stand together, in the order in which they were measured."""
        sampled = pl.LazyFrame(list(self.documents), schema=PANEL, orient="row")
        return find_panels(self["metrics"], sampled)

    @cached_property
    def documents(self) -> dict[Kind, Documents]:
        """The table `samples` as arrays, one for each suite, task and metric."""
        return read_documents(self["samples"])

    @cached_property
    def scores(self) -> Scores:
        """Every row's score on every task, with its difference to the dense row."""
        found = scores(self["metrics"], self["samples"], self.rows.frame, documents=self.documents)
        return found.adjusted(self.panels)

    @cached_property
    def provenance(self) -> Provenance:
        """Where the numbers are from, and what keeps them from being published."""
        return provenance(self)
