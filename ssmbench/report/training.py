"""Training: how fine-tuning went, one line a row; the loss curve in small."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report._by_row import of_rows
from ssmbench.report._format import count, significant
from ssmbench.report._format import seconds as time_of
from ssmbench.report._rows import UNTRAINED, Row
from ssmbench.report._table import Column, Shown, Table, missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._results import Results

TITLE = "Training"
ORDER = 61

SUITE = "training"
_LEVELS = "▁▂▃▄▅▆▇█"
_WIDTH = 16
_COLUMNS = (
    Column("text", "left", parts=("text",)),
    Column("steps", parts=("steps",)),
    Column("before", unit="nats", parts=("loss_before",)),
    Column("after", unit="nats", parts=("loss_after",)),
    Column("first", unit="nats", parts=("loss_first",)),
    Column("last", unit="nats", parts=("loss_last", "dense_loss_last", "sparse_loss_last")),
    Column("curve", "left", parts=("curve",)),
    Column("tokens", parts=("tokens",)),
    Column("tokens/s", parts=("tokens_per_s",)),
    Column("time", parts=("seconds",)),
)
_NOTES = (
    "Before, after: the training's loss, in nats per token, on windows of the end of its text"
    " that it was not trained on. kd: KL from the dense model's distribution, 0 if they are"
    " equal; ce: cross-entropy; dense+sparse: the sum of two, which stand in brackets.",
    "First, last, curve: the loss on what it was trained on, at the curve's first point and its"
    " last; ▁ is its lowest and █ its highest. Every point is in the table `training` (docs/"
    "fine-tuning.md), and in this one's CSV as STEP:LOSS.",
)


def build(results: Results) -> list[Table]:
    """Build one table with a line for each row that was fine-tuned.

    Args:
        results: the run's.
    """
    rows = results.rows
    trained = [row for row in rows.rows if row.fine_tune != UNTRAINED]
    if not trained:
        return []
    curves = _curves(results["training"], rows.frame)
    held_out = _held_out(results["metrics"], rows.frame)
    models = [row.key[0] for row in trained]
    return [
        Table(
            title=f"{TITLE}: the loss, and how fast",
            name="training",
            columns=(*rows.columns, *_COLUMNS),
            rows=tuple(
                (*row.key, *_cells(row, curves.get(row.index), held_out.get(row.index, {})))
                for row in trained
            ),
            sections=frozenset(i for i, m in enumerate(models) if i == 0 or m != models[i - 1]),
            notes=_NOTES,
        )
    ]


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Draw a curve: one sign a bin of `width` equal ones, each the mean of its values.

    Args:
        values: finite, at least one; fewer than `width` have a sign each.
        width: signs at most.
    """
    n = min(width, len(values))
    edges = [round(i * len(values) / n) for i in range(n + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if low == high:
        return _LEVELS[0] * n
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[round(top * (mean - low) / (high - low))] for mean in means)


def _curves(training: pl.LazyFrame, links: pl.DataFrame) -> dict[int, pl.DataFrame]:
    """Give the curve of each row, step by step: means over its seeds."""
    names = ("loss", "dense_loss", "sparse_loss", "tokens", "seconds")
    found = (
        of_rows(training, links)
        .group_by("row", "step")
        .agg(pl.col(name).mean() for name in names)
        .sort("row", "step")
        .collect()
    )
    return {int(row): part for (row,), part in found.group_by("row", maintain_order=True)}


def _held_out(metrics: pl.LazyFrame, links: pl.DataFrame) -> dict[int, dict[str, Any]]:
    """Give each row's text and its loss on held-out windows, before and after."""
    found = (
        metrics.filter(suite=SUITE)
        .pipe(of_rows, links)
        .group_by("row", "task", "metric", maintain_order=True)
        .agg(pl.col("value").mean())
        .collect()
    )
    told: dict[int, dict[str, Any]] = {}
    for row in found.iter_rows(named=True):
        told.setdefault(row["row"], {"text": row["task"]})[row["metric"]] = row["value"]
    return told


def _cells(row: Row, curve: pl.DataFrame | None, held_out: Mapping[str, Any]) -> tuple[Shown, ...]:
    if curve is None:
        why = row.why_missing("this row has no loss curve", suite=SUITE)
        return tuple(missing(why) for _ in _COLUMNS)
    last, losses = curve.row(-1, named=True), curve["loss"].to_list()
    seconds, tokens = last["seconds"], round(last["tokens"])
    speed = tokens / seconds if seconds else None
    return (
        Shown(held_out.get("text", ""), {"text": held_out.get("text")}),
        Shown(str(last["step"]), {"steps": last["step"]}),
        *(_loss(name, held_out.get(name)) for name in ("loss_before", "loss_after")),
        _loss("loss_first", losses[0]),
        _last(last),
        Shown(sparkline(losses), {"curve": _points(curve)}),
        Shown(count(tokens), {"tokens": tokens}),
        missing("not told") if speed is None else Shown(count(speed), {"tokens_per_s": speed}),
        missing("not told") if seconds is None else Shown(time_of(seconds), {"seconds": seconds}),
    )


def _loss(name: str, value: float | None) -> Shown:
    return missing("not told") if value is None else Shown(significant(value), {name: value})


def _last(last: Mapping[str, Any]) -> Shown:
    text, numbers = significant(last["loss"]), {"loss_last": last["loss"]}
    parts = {name: last[name] for name in ("dense_loss", "sparse_loss")}
    if None in parts.values():
        return Shown(text, numbers)
    both = " + ".join(map(significant, parts.values()))
    return Shown(f"{text} ({both})", numbers | {f"{name}_last": v for name, v in parts.items()})


def _points(curve: pl.DataFrame) -> str:
    return " ".join(f"{step}:{loss:.6g}" for step, loss in curve.select("step", "loss").rows())
