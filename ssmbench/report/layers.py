"""Layers: how alike neighbouring tokens are, what far ones still say, which tokens were dropped."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from ssmbench.report._by_row import of_rows
from ssmbench.report._format import fixed, significant
from ssmbench.report._table import Column, Shown, Table, missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._results import Results
    from ssmbench.report._rows import Row, Rows

TITLE = "Layers"
ORDER = 90

SHOWN_LAYERS = 8
DROPPING = ("tokens", "kept_position", "zeros", "ties", "rank_correlation")


class _Kind(NamedTuple):
    """One kind of table.

    Attributes:
        measures: that it shows.
        name: of the file.
        title: for people.
        note: what the numbers are.
    """

    measures: tuple[str, ...]
    name: str
    title: str
    note: str

    @property
    def by_place(self) -> bool:
        """Whether columns are places of the one measure, which every row has, not measures."""
        return len(self.measures) == 1


_KINDS = (
    _Kind(
        ("cosine",),
        "redundancy",
        "token redundancy",
        "Cosine similarity of adjacent tokens, mean over documents; n counts documents.",
    ),
    _Kind(
        ("influence",),
        "information-flow",
        "information flow",
        "A token's influence on the scan's last output, over that output's norm, mean over the"
        " tokens of each part of the documents; n counts tokens.",
    ),
    _Kind(
        DROPPING,
        "dropping",
        "token dropping",
        "Means over the prompts of all tasks, n of them. tokens: that enter the layer; kept"
        " position: of those that it kept, 0 is the prompt's first token and 1 its last; zeros,"
        " ties: part of the scores that are zero, or equal to another; rank correlation: of score"
        " and position.",
    ),
)


def build(results: Results) -> list[Table]:
    """Build one table for each suite and kind of measure.

    Args:
        results: the run's.
    """
    rows = results.rows
    found = of_rows(results["layers"], rows.frame).collect()
    return [
        _table(kind, part, rows, several=found.filter(suite=suite)["suite_id"].n_unique() > 1)
        for kind in _KINDS
        for (_, suite), part in found.filter(pl.col("measure").is_in(kind.measures)).group_by(
            "suite_id", "suite", maintain_order=True
        )
    ]


def chosen(layers: Sequence[int], at_most: int = SHOWN_LAYERS) -> list[int]:
    """Choose layers evenly, the first and the last among them; all if they are few."""
    if len(layers) <= at_most:
        return list(layers)
    last = len(layers) - 1
    return [layers[round(i * last / (at_most - 1))] for i in range(at_most)]


def _table(kind: _Kind, found: pl.DataFrame, rows: Rows, *, several: bool) -> Table:
    column = "place" if kind.by_place else "measure"
    names = [n for n in kind.measures if n in found["measure"]]
    if kind.by_place:
        names = list(dict.fromkeys(found["place"]))
    at = _cells(found, column)
    suite, suite_id = found["suite"][0], found["suite_id"][0]
    rows = rows.wanted(set(found["row"]))
    lines: list[tuple[Shown, ...]] = []
    sections = set()
    for row in rows.rows:
        layers = chosen(sorted({layer for r, layer, _ in at if r == row.index}))
        if layers or kind.by_place:
            sections.add(len(lines))
        lines += [_line(row, i, [(n, at.get((row.index, i, n))) for n in names]) for i in layers]
        if kind.by_place and not layers:
            why = row.why_missing(f"suite {suite} was not run on this cell", suite=suite)
            lines.append((*row.key, *[missing(why)] * (len(names) + 2)))
    tail = f"-{suite_id}" if several else ""
    return Table(
        title=f"{TITLE}: {kind.title}, {suite}" + (f" (suite {suite_id})" if several else ""),
        name=re.sub(r"[^0-9A-Za-z_-]+", "-", f"layers-{kind.name}-{suite}{tail}"),
        columns=(
            *rows.columns,
            Column("layer", parts=("layer",), key=True),
            *(Column(n.replace("_", " "), parts=("value", "n"), prefix=n) for n in names),
            Column("n", parts=("n",)),
        ),
        rows=tuple(lines),
        sections=frozenset(sections),
        notes=(kind.note, *_how_many(found)),
    )


def _cells(found: pl.DataFrame, column: str) -> dict[tuple[int, int, str], dict[str, Any]]:
    """Give the mean of each row, layer and column: over seeds, and over tasks if they are apart."""
    known = pl.col("value").is_not_null()
    weight = pl.col("n").filter(known)
    frame = found.group_by("row", "layer", column).agg(
        ((pl.col("value").filter(known) * weight).sum() / weight.sum()).alias("value"),
        pl.col("n").sum(),
        pl.col("reason").drop_nulls().first(),
    )
    return {(r["row"], r["layer"], r[column]): r for r in frame.iter_rows(named=True)}


def _line(
    row: Row, layer: int, cells: Sequence[tuple[str, Mapping[str, Any] | None]]
) -> tuple[Shown, ...]:
    counts = [c["n"] for _, c in cells if c is not None]
    least, most = min(counts), max(counts)
    return (
        *row.key,
        Shown(str(layer), {"layer": layer}),
        *(_value(name, cell) for name, cell in cells),
        Shown(str(most) if least == most else f"{least}–{most}", {"n": most}),
    )


def _value(name: str, found: Mapping[str, Any] | None) -> Shown:
    if found is None:
        return missing("nothing is dropped after this layer")
    value = found["value"]
    if not found["n"] or value is None or not math.isfinite(value):
        return missing(found["reason"])
    text = f"{value:.2e}" if 0 < abs(value) < 1e-3 else significant(value)
    if name in ("zeros", "ties"):
        text = fixed(value, 3)
    return Shown(text, {"value": value, "n": found["n"]})


def _how_many(found: pl.DataFrame) -> tuple[str, ...]:
    n = found["layer"].n_unique()
    if n <= SHOWN_LAYERS:
        return ()
    return (f"{SHOWN_LAYERS} of {n} layers, evenly chosen; all are in the run's table `layers`.",)
