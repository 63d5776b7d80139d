"""Training curves: the loss of every fine-tuned row, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report._by_row import of_rows
from ssmbench.report._figure import Figure
from ssmbench.report._format import significant
from ssmbench.report._lines import Chart, Dot, Line, Plot, looks
from ssmbench.report._points import by_model, data_table, fill, warnings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._points import ByModel
    from ssmbench.report._results import Results

TITLE = "Training curves"
ORDER = 62

_TITLE = "Loss during fine-tuning"


def build(results: Results) -> list[Figure]:
    """Build one figure: a panel for each model, a line for each row that was fine-tuned.

    Args:
        results: the run's.
    """
    frame = (
        results["training"]
        .filter(pl.col("loss").is_not_null())
        .pipe(of_rows, results.rows.frame)
        .group_by("row", "step", maintain_order=True)
        .agg(pl.col("loss").mean(), pl.col("loss").alias("seeds"))
        .sort("row", "step")
        .collect()
    )
    if frame.is_empty():
        reason = fill(
            results, "No cell of this run was fine-tuned", toy="loss-choice-toy", real="loss-choice"
        )
        return [Figure(_TITLE, "training-curves", "", reason=reason)]
    curves = {int(row): part for (row,), part in frame.group_by("row", maintain_order=True)}
    groups = by_model(f for f in results.facts if f.row.index in curves)
    chart = Chart(
        [Plot(group.model, _lines(group, groups, curves)) for group in groups],
        x="step",
        y="loss, nats per token",
        y_scale="log",
        share="",
        x_scale="whole",
        each=2.2,
    )
    return [
        Figure(
            title=_TITLE,
            name="training-curves",
            caption=(
                "The loss on what is trained on, at each point that was noted down, on a"
                " logarithmic axis; of several seeds the mean, and each seed as a dash. Losses of"
                " different kinds (kd: KL from the dense model; ce: cross-entropy) are not"
                " comparable. Before and after, on held-out windows: the table above. Not in"
                " either paper."
            ),
            alt=_alt(groups, curves),
            draw=chart.draw,
            data=_data(groups, curves),
            size=chart.size,
            warnings=warnings([], [f for group in groups for f in group.rows]),
        )
    ]


def _lines(
    group: ByModel, groups: Sequence[ByModel], curves: Mapping[int, pl.DataFrame]
) -> list[Line]:
    styles = looks([f.label for g in groups for f in g.rows])
    made = []
    for f in group.rows:
        dots = []
        for step, loss, seeds in curves[f.row.index].select("step", "loss", "seeds").iter_rows():
            dots.append(Dot(step, loss, raw=tuple(seeds) if len(seeds) > 1 else ()))
        made.append(Line(f.label, styles[f.label], dots))
    return made


def _data(groups: Sequence[ByModel], curves: Mapping[int, pl.DataFrame]) -> Any:
    records = [
        {"model": f.model, "method": f.name, "ratio": f.ratio, "step": step, "loss": loss}
        for group in groups
        for f in group.rows
        for step, loss in curves[f.row.index].select("step", "loss").iter_rows()
    ]
    return data_table("training-curves", _TITLE, records)


def _alt(groups: Sequence[ByModel], curves: Mapping[int, pl.DataFrame]) -> str:
    told = []
    for group in groups:
        parts = []
        for f in group.rows:
            losses = curves[f.row.index]["loss"]
            parts.append(f"{f.label} from {significant(losses[0])} to {significant(losses[-1])}")
        told.append(f"{group.model}: {', '.join(parts)}")
    return f"Loss at the first and the last point. {'; '.join(told)}."
