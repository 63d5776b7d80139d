"""Two runs side by side: what changed, cell by cell, paired by document.

A cell of one run meets the cell of the other that says the same: by its id, or, where code or
weights have changed what the id is made of, by model, method, parameters, ratio, training, seed,
dtype and calibration. Suites meet by their id, or by name where each run has one of that name
that the other lacks.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report._labels import settings_of
from ssmbench.report._panels import Panel, find_panels
from ssmbench.report._rows import Row
from ssmbench.report._scores import scores
from ssmbench.report.quality import mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._results import Results
    from ssmbench.report._scores import Score, Scores

_SECOND = "second:"
_TABLES = ("metrics", "samples")


@dataclass(frozen=True)
class Pair:
    """One cell that both runs have: its rows of their tables `cells`, and its place here."""

    index: int
    first: Mapping[str, Any]
    second: Mapping[str, Any]

    @property
    def row(self) -> Row:
        """The second run's cell as a row whose dense row is the first run's cell."""
        cells = {_SECOND + self.second["cell_id"]: (self.second["seed"], _reason(self.second))}
        return Row(2 * self.index + 1, (), cells, dense=2 * self.index, is_dense=False)

    @property
    def other(self) -> Row:
        """The first run's cell as a row."""
        cells = {self.first["cell_id"]: (self.first["seed"], _reason(self.first))}
        return Row(2 * self.index, (), cells, dense=None, is_dense=False)


class Comparison:
    """What two runs have in common.

    Args:
        first: the one that differences are taken from.
        second: the one that is compared with it: differences are second minus first.
        names: of the two, for people.
    """

    def __init__(self, first: Results, second: Results, names: tuple[str, str]) -> None:
        self.first, self.second, self.names = first, second, names
        self.pairs, self.only_first, self.only_second = _meet(first.cells, second.cells)

    @cached_property
    def suites(self) -> dict[str, str]:
        """The second run's suite ids -> the first's, where these differ."""
        mine, theirs = (_suites(r) for r in (self.first, self.second))
        unmatched = [
            {i: n for i, n in a.items() if i not in b} for a, b in ((mine, theirs), (theirs, mine))
        ]
        counts = [Counter(u.values()) for u in unmatched]
        by_name = {n: i for i, n in unmatched[0].items() if counts[0][n] == 1}
        return {
            i: by_name[n] for i, n in unmatched[1].items() if counts[1][n] == 1 and n in by_name
        }

    @cached_property
    def frames(self) -> dict[str, pl.LazyFrame]:
        """Metrics and samples of the cells that both have; the second's under names of its own."""
        mine = [pair.first["cell_id"] for pair in self.pairs]
        theirs = [pair.second["cell_id"] for pair in self.pairs]
        return {
            name: pl.concat(
                [
                    self.first[name].filter(pl.col("cell_id").is_in(mine)),
                    self.second[name]
                    .filter(pl.col("cell_id").is_in(theirs))
                    .with_columns(
                        cell_id=pl.lit(_SECOND) + pl.col("cell_id"),
                        suite_id=pl.col("suite_id").replace(self.suites),
                    ),
                ]
            )
            for name in _TABLES
        }

    @cached_property
    def panels(self) -> list[Panel]:
        """Which metrics stand together."""
        return find_panels(self.frames["metrics"], self.frames["samples"])

    @cached_property
    def scores(self) -> Scores:
        """Every score of both; the second's with its difference to the first's."""
        links = [
            link
            for pair in self.pairs
            for link in (
                {"cell_id": pair.first["cell_id"], "row": 2 * pair.index, "dense_row": None},
                {
                    "cell_id": _SECOND + pair.second["cell_id"],
                    "row": 2 * pair.index + 1,
                    "dense_row": 2 * pair.index,
                },
            )
        ]
        schema = {"cell_id": pl.String, "row": pl.Int64, "dense_row": pl.Int64}
        frame = pl.DataFrame(links, schema=schema, orient="row")
        found = scores(
            self.frames["metrics"],
            self.frames["samples"],
            frame,
            other=f"the cell of {self.names[0]}",
        )
        return found.adjusted(self.panels)

    def means(self, panel: Panel, pair: Pair) -> tuple[Score, Score]:
        """Give the scores of a cell in both runs, the second with its difference to the first."""
        return mean(panel, pair.other, self.scores), mean(panel, pair.row, self.scores)

    @cached_property
    def changed(self) -> dict[tuple[int, str], tuple[int, int]]:
        """(pair, suite_id) -> documents whose value changed, and documents that both have."""
        keys = ["suite_id", "task", "metric", "doc_id"]
        place = pl.DataFrame(
            {
                "cell_id": [p.first["cell_id"] for p in self.pairs],
                "twin": [_SECOND + p.second["cell_id"] for p in self.pairs],
                "pair": [p.index for p in self.pairs],
            },
            schema={"cell_id": pl.String, "twin": pl.String, "pair": pl.Int64},
        ).lazy()
        samples = self.frames["samples"]
        both = (
            samples.join(place, on="cell_id")
            .join(samples, left_on=["twin", *keys], right_on=["cell_id", *keys], suffix="_second")
            .group_by("pair", "suite_id")
            .agg((pl.col("value") != pl.col("value_second")).sum().alias("n_changed"), pl.len())
            .collect()
        )
        return {(pair, suite): (changed, n) for pair, suite, changed, n in both.rows()}


def _meet(
    first: pl.DataFrame, second: pl.DataFrame
) -> tuple[list[Pair], list[dict[str, Any]], list[dict[str, Any]]]:
    """Find which cells are the same; gives the pairs and what is left over of either run."""
    mine = first.rows(named=True)
    theirs = {cell["cell_id"]: cell for cell in second.rows(named=True)}
    found = {c["cell_id"]: theirs.pop(c["cell_id"]) for c in mine if c["cell_id"] in theirs}
    rest = [c for c in mine if c["cell_id"] not in found]
    meant = _unique([*theirs.values()])
    for what, cell in _unique(rest).items():
        if what in meant:
            found[cell["cell_id"]] = theirs.pop(meant[what]["cell_id"])
    met = [c for c in mine if c["cell_id"] in found]
    pairs = [Pair(i, cell, found[cell["cell_id"]]) for i, cell in enumerate(met)]
    return pairs, [c for c in mine if c["cell_id"] not in found], list(theirs.values())


def _unique(cells: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name cells by what they say; those that say the same as another are left out."""
    named = [(_what(cell), cell) for cell in cells]
    counts = Counter(what for what, _ in named)
    return {what: cell for what, cell in named if counts[what] == 1}


def _what(cell: Mapping[str, Any]) -> str:
    """Write what a cell is, but for versions and the fingerprint of its weights."""
    same = [cell[n] for n in ("model", "method", "ratio", "fine_tune", "seed", "dtype")]
    settings = settings_of(cell) | json.loads(cell["fine_tune_params"] or "{}")
    told = {name: value for name, value in settings.items() if not name.endswith("version")}
    return json.dumps([*same, told], sort_keys=True)


def _suites(results: Results) -> dict[str, str]:
    found = pl.concat([results[n].select("suite_id", "suite") for n in (*_TABLES, "latency")])
    return dict(found.unique(maintain_order=True).collect().rows())


def _reason(cell: Mapping[str, Any]) -> str | None:
    return None if cell["status"] == "done" else str(cell["reason"] or cell["status"])
