"""Token redundancy: how alike neighbouring tokens are, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report._by_row import of_rows
from ssmbench.report._figure import Figure
from ssmbench.report._format import fixed
from ssmbench.report._lines import Chart, Dot, Line, Plot, looks
from ssmbench.report._points import data_table, file_name, fill, warnings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.report._points import Facts
    from ssmbench.report._results import Results

TITLE = "Token redundancy"
ORDER = 91

_TITLE = "How alike neighbouring tokens are"
_PLACES = {"residual": "residual stream", "mixer": "mixer's output", "state": "SSM state"}


def build(results: Results) -> list[Figure]:
    """Build one figure for each suite that measured it: dense models, a panel for each place.

    Args:
        results: the run's.
    """
    facts = {f.row.index: f for f in results.facts if f.is_plain_dense}
    found = mean_layers(results, "cosine").filter(pl.col("row").is_in(list(facts)))
    if found["value"].is_not_null().sum() == 0:
        why = "Suite redundancy was not run on a dense model"
        reason = fill(results, why, toy="quickstart", real="simba-long")
        return [Figure(_TITLE, "redundancy", "", reason=reason)]
    several = found["suite_id"].n_unique() > 1
    return [
        _figure(facts, part, suite_id if several else "")
        for (suite_id,), part in found.group_by("suite_id", maintain_order=True)
    ]


def mean_layers(results: Results, measure: str) -> pl.DataFrame:
    """Give a measure of every suite, row, layer and place: its mean over seeds.

    Returns:
        suite_id, row, layer, place, value (None where there is none), n and reason, by
        suite, row, layer and place.
    """
    weight = pl.col("n").filter(pl.col("value").is_not_null())
    return (
        results["layers"]
        .filter(measure=measure)
        .pipe(of_rows, results.rows.frame)
        .group_by("suite_id", "row", "layer", "place")
        .agg(
            pl.when(weight.sum() > 0)
            .then((pl.col("value") * pl.col("n")).sum() / weight.sum())
            .alias("value"),
            pl.col("n").sum(),
            pl.col("reason").drop_nulls().first(),
        )
        .sort("suite_id", "row", "layer", "place")
        .collect()
    )


def _figure(facts: dict[int, Facts], part: pl.DataFrame, tail: str) -> Figure:
    known = list(_PLACES)
    places = sorted(set(part["place"]), key=lambda p: known.index(p) if p in known else len(known))
    rows = [facts[row] for row in dict.fromkeys(part["row"])]
    chart = Chart(
        [Plot(_PLACES.get(place, place or "all"), _lines(rows, part, place)) for place in places],
        x="layer",
        y="cosine similarity",
        each=2.2,
        x_scale="whole",
    )
    name = file_name("redundancy", tail)
    return Figure(
        title=_TITLE,
        name=name,
        caption=(
            "Cosine similarity of each token with the one before it, mean over a document's tokens"
            " and over documents, of dense models. One panel for each place in a layer where it is"
            " measured; 1 is alike, 0 is not. As figure 2 of Simba (arXiv:2505.20698). The spread"
            " over documents is not kept, so that there are no intervals."
        ),
        alt=_alt(rows, part, places),
        draw=chart.draw,
        data=data_table(name, _TITLE, _records(facts, part), keys=3),
        size=chart.size,
        warnings=warnings([], rows),
    )


def _lines(rows: Sequence[Facts], part: pl.DataFrame, place: str | None) -> list[Line]:
    styles = looks([_name(f, rows) for f in rows])
    here = part.filter(pl.col("place").eq_missing(place))
    made = []
    for f in rows:
        own = here.filter(row=f.row.index)
        dots = [Dot(layer, value) for layer, value in own.select("layer", "value").iter_rows()]
        made.append(Line(_name(f, rows), styles[_name(f, rows)], dots))
    return made


def _name(f: Facts, rows: Sequence[Facts]) -> str:
    same = [other for other in rows if other.model == f.model]
    return f.model if len(same) == 1 else f"{f.model} {f.dtype}"


def _records(facts: dict[int, Facts], part: pl.DataFrame) -> list[dict[str, Any]]:
    return [
        {"model": facts[r["row"]].model, "place": r["place"], "layer": r["layer"]}
        | {"cosine": r["value"], "n": r["n"], "reason": r["reason"]}
        for r in part.iter_rows(named=True)
    ]


def _alt(rows: Sequence[Facts], part: pl.DataFrame, places: Sequence[str | None]) -> str:
    told = []
    for place in places:
        here = part.filter(pl.col("place").eq_missing(place) & pl.col("value").is_not_null())
        if here.is_empty():
            continue
        low, high = here.sort("value").row(0, named=True), here.sort("value").row(-1, named=True)
        models = {f.row.index: f.model for f in rows}
        ends = [
            f"{fixed(r['value'], 2)} ({models[r['row']]}, layer {r['layer']})" for r in (low, high)
        ]
        told.append(f"{_PLACES.get(place or '', place or 'all')}: from {ends[0]} to {ends[1]}")
    return f"Cosine similarity of neighbouring tokens. {'; '.join(told)}."
