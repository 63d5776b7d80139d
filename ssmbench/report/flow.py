"""Information flow: how much of a layer's last output comes from where in the text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report import _style as s
from ssmbench.report._figure import Figure
from ssmbench.report._lines import Chart, Dot, Line, Plot
from ssmbench.report._points import by_model, data_table, file_name, fill, warnings
from ssmbench.report.redundancy import mean_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.report._points import ByModel
    from ssmbench.report._results import Results

TITLE = "Information flow"
ORDER = 92

_TITLE = "Where a layer's last output comes from"
# Dark to light, far to near; in grey as in colour.
_SHADES = ("#440154", "#3B528B", "#21918C", "#46B070", "#D0B000")


def build(results: Results) -> list[Figure]:
    """Build one figure for each suite and model: a panel for each of its rows.

    Args:
        results: the run's.
    """
    found = mean_layers(results, "influence")
    if found["value"].is_not_null().sum() == 0:
        why = "Suite information_flow was not run on a model with SSM mixers"
        reason = fill(results, why, toy="quickstart", real="simba-long")
        return [Figure(_TITLE, "flow", "", reason=reason)]
    facts = results.facts
    several = found["suite_id"].n_unique() > 1
    made = []
    for (suite_id,), part in found.group_by("suite_id", maintain_order=True):
        measured = set(part.filter(pl.col("value").is_not_null())["row"])
        groups = by_model(f for f in facts if f.row.index in measured)
        made += [_figure(group, part, str(suite_id) if several else "") for group in groups]
    return made


def _figure(group: ByModel, part: pl.DataFrame, tail: str) -> Figure:
    places = list(dict.fromkeys(part["place"]))
    chart = Chart(
        [Plot(f.label, _lines(part.filter(row=f.row.index), places)) for f in group.rows],
        x="layer",
        y="influence / output",
        columns=4,
        each=1.9,
        x_scale="whole",
        y_scale="log",
        share="xy",
    )
    name = file_name("flow", group.model, tail)
    title = f"{_TITLE}: {group.model}"
    return Figure(
        title=title,
        name=name,
        caption=(
            "A token's influence on the scan's last output over that output's norm, mean over the"
            " tokens of each part of the documents (0–0.2 is the first fifth), on a logarithmic"
            " axis. Where tokens are dropped, those count that are left; a part of which none is"
            " left has no point. As figure 5 of Simba (arXiv:2505.20698). The spread over tokens"
            " is not kept, so that there are no intervals."
        ),
        alt=_alt(group, part, places),
        draw=chart.draw,
        data=data_table(name, title, _records(group, part), keys=5),
        size=chart.size,
        warnings=warnings([], group.rows),
    )


def shade(i: int, n: int) -> s.Style:
    """Give the look of the i-th of n parts: the nearer to the end, the lighter."""
    at = 0 if n == 1 else round(i * (len(_SHADES) - 1) / (n - 1))
    look = s.style(i)
    return s.Style(_SHADES[at], look.marker, look.dashes)


def _lines(own: pl.DataFrame, places: Sequence[str | None]) -> list[Line]:
    made = []
    for i, place in enumerate(places):
        here = own.filter(pl.col("place").eq_missing(place)).sort("layer")
        dots = [
            # A logarithmic axis has no place for a share that is nothing.
            Dot(layer, value if value is not None and value > 0 else None)
            for layer, value in here.select("layer", "value").iter_rows()
        ]
        made.append(Line(_range(place), shade(i, len(places)), dots))
    return made


def _range(place: str | None) -> str:
    return (place or "all").replace("-", "–")


def _records(group: ByModel, part: pl.DataFrame) -> list[dict[str, Any]]:
    facts = {f.row.index: f for f in group.rows}
    return [
        {"model": group.model, "method": facts[r["row"]].name, "ratio": facts[r["row"]].ratio}
        | {"layer": r["layer"], "part": r["place"], "influence": r["value"], "n": r["n"]}
        | {"reason": r["reason"]}
        for r in part.filter(pl.col("row").is_in(list(facts))).iter_rows(named=True)
    ]


def _alt(group: ByModel, part: pl.DataFrame, places: Sequence[str | None]) -> str:
    """Say by how many powers of ten the last part outweighs the first, layer by layer."""
    told = []
    for f in group.rows:
        own = part.filter(row=f.row.index)
        gaps = []
        for layer in dict.fromkeys(own["layer"]):
            at = {r["place"]: r["value"] for r in own.filter(layer=layer).iter_rows(named=True)}
            near, far = at.get(places[-1]), at.get(places[0])
            if near and far:
                gaps.append(math.log10(near / far))
        if gaps:
            told.append(f"{f.label}: {min(gaps):.1f} to {max(gaps):.1f}".replace("-", "−"))
        else:
            told.append(f"{f.label}: nothing is left of the first part")
    return (
        f"{group.model}. Powers of ten by which a token of the last part outweighs one of the"
        f" first, over the layers: {'; '.join(told)}."
    )
