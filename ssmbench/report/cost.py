"""Cost: what is stored, what a token costs, how long it takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report._format import count, fixed, percent, seconds, significant, size
from ssmbench.report._table import Column, Shown, Table, missing
from ssmbench.report.quality import mean_scores, not_publishable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ssmbench.report._panels import Panel
    from ssmbench.report._results import Results
    from ssmbench.report._rows import Row, Rows
    from ssmbench.report._scores import Score

TITLE = "Cost"
ORDER = 2

_TIMES = ("median_s", "p10_s", "p90_s", "speedup", "tokens_per_s", "peak_memory_bytes")
_FACTS = (
    "params_model",
    "params_mixer",
    "compression_mixer",
    "compression_model",
    "ratio_achieved",
    "flops_per_token",
    "flops_per_token_dense",
    "state_bytes",
)


def build(results: Results) -> list[Table]:
    """Build the table of sizes and one table of times for each device and phase.

    Args:
        results: the run's.
    """
    cells = results.cells
    rows = results.rows
    if not rows.rows:
        return []
    return [_sizes(cells, rows), *_times(results, rows)]


def _sizes(cells: pl.DataFrame, rows: Rows) -> Table:
    columns = (
        Column("weights", parts=("params_model",)),
        Column("in mixers", parts=("params_mixer",)),
        Column("mixers removed", unit="%", parts=("compression_mixer",)),
        Column("model removed", unit="%", parts=("compression_model",)),
        Column("achieved ratio", unit="%", parts=("ratio_achieved",)),
        Column("FLOPs/token", parts=("flops_per_token",)),
        Column("of dense", parts=("flops_of_dense",)),
        Column("state", parts=("state_bytes",)),
    )
    facts = (
        cells.join(rows.frame, on="cell_id")
        .group_by("row")
        .agg(pl.col(name).mean() for name in _FACTS)
    )
    known = {r["row"]: r for r in facts.iter_rows(named=True)}
    return Table(
        title=f"{TITLE}: size and compute",
        name="cost-size",
        columns=(*rows.columns, *columns),
        rows=tuple((*row.key, *_size_cells(known[row.index], row)) for row in rows.rows),
        sections=rows.sections,
        notes=(
            "Weights are those stored: a method that only sets weights to zero removes none."
            " The achieved ratio counts zeros and removed units among what the method targets.",
            "FLOPs of a forward pass over 512 tokens, per token; state of one sequence.",
        ),
    )


def _size_cells(facts: Mapping[str, Any], row: Row) -> list[Shown]:
    def show(part: str, value: float | None, text: Callable[[float], str]) -> Shown:
        if value is None:
            return missing(row.why_missing(_why_null(part, row)))
        return Shown(text(value), {part: value})

    flops, dense = facts["flops_per_token"], facts["flops_per_token_dense"]
    of_dense = flops / dense if flops is not None and dense else None
    return [
        show("params_model", facts["params_model"], count),
        show("params_mixer", facts["params_mixer"], count),
        show("compression_mixer", facts["compression_mixer"], percent),
        show("compression_model", facts["compression_model"], percent),
        show("ratio_achieved", facts["ratio_achieved"], percent),
        show("flops_per_token", flops, count),
        show("flops_of_dense", of_dense, lambda v: fixed(v, 3)),
        show("state_bytes", facts["state_bytes"], size),
    ]


def _why_null(part: str, row: Row) -> str:
    """Say why an attempt that ended well left a fact out."""
    if part == "ratio_achieved" and row.is_dense:
        return "dense removes nothing"
    if part == "compression_mixer":
        return "the model has no SSM mixers"
    return "not told by the attempt"


def _times(results: Results, rows: Rows) -> list[Table]:
    """Make one table for each suite, device and phase: shapes are columns."""
    keys = ["suite_id", "suite", "device", "phase"]
    found = (
        results["latency"]
        .join(rows.frame.lazy(), on="cell_id")
        .group_by("row", *keys, "batch", "length", maintain_order=True)
        .agg(pl.col(name).mean() for name in _TIMES)
        .collect()
    )
    if found.is_empty():
        return []
    panel, quality = mean_scores(results, rows)
    suite = panel.suite if panel else ""
    made = []
    devices = found.select("suite_id", "device").unique().height > 1
    for (suite_id, name, device, phase), part in found.group_by(keys, maintain_order=True):
        shapes = part.select("batch", "length").unique().sort("batch", "length").rows()
        at = {(r["row"], r["batch"], r["length"]): r for r in part.iter_rows(named=True)}
        columns = [Column(f"{b}×{n}", parts=_TIMES, prefix=f"{b}x{n}") for b, n in shapes]
        timed = rows.wanted(set(part["row"]))
        lines = [
            (
                *row.key,
                _quality(quality.get(row.index), row, suite),
                *(_time(at.get((row.index, *shape)), row, str(name)) for shape in shapes),
            )
            for row in timed.rows
        ]
        tail = f"-{device}-{suite_id}" if devices else ""
        made.append(
            Table(
                title=f"{TITLE}: {phase} on {device}",
                name=re.sub(r"[^0-9A-Za-z_-]+", "-", f"cost-{phase}{tail}"),
                columns=(*rows.columns, _quality_column(suite), *columns),
                rows=tuple(lines),
                sections=timed.sections,
                notes=_time_notes(str(phase), panel),
            )
        )
    return made


def _quality_column(suite: str) -> Column:
    return Column(
        f"{suite or 'quality'} mean", unit="%", parts=("value", "stderr"), prefix="quality"
    )


def _quality(score: Score | None, row: Row, suite: str) -> Shown:
    """A time never stands without the quality that it was bought with."""
    if score is None or score.value is None:
        which = f"suite {suite} was not run" if suite else "no suite measured quality"
        return missing(row.why_missing(f"nothing to judge these times by: {which}", suite=suite))
    text = percent(score.value)
    if score.stderr is not None:
        text += f" ±{percent(score.stderr)}"
    return Shown(text, {"value": score.value, "stderr": score.stderr})


def _time(found: Mapping[str, Any] | None, row: Row, suite: str) -> Shown:
    if found is None or found["median_s"] is None:
        return missing(row.why_missing(f"suite {suite} was not run on this cell", suite=suite))
    speedup = found["speedup"]
    tail = f" ×{significant(speedup)}" if speedup is not None else ""
    note = None if speedup is not None else "the dense model was not timed beside it"
    return Shown(seconds(found["median_s"]) + tail, {n: found[n] for n in _TIMES}, note)


def _time_notes(phase: str, panel: Panel | None) -> tuple[str, ...]:
    what = "step" if phase == "decode" else "pass"
    limit = panel.limit if panel else None
    trial = () if limit is None else (f"The quality is {not_publishable(limit)}.",)
    return (
        f"Columns are batch × length. Median time of a {what}, × speedup over the dense model,"
        " which takes turns with it in one process; the dense row shows how far 1 is exact.",
        *trial,
    )
