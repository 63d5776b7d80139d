"""Cost: what is stored, what a token costs, how long it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmbench.report._by_row import facts_by_row
from ssmbench.report._format import count, fixed, percent, size
from ssmbench.report._table import Column, Shown, Table, missing
from ssmbench.report._times import time_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    from ssmbench.report._results import Results
    from ssmbench.report._rows import Row, Rows

TITLE = "Cost"
ORDER = 40

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
    """Build the table of sizes, and those of times for each device and phase.

    Args:
        results: the run's.
    """
    cells = results.cells
    rows = results.rows
    if not rows.rows:
        return []
    return [_sizes(cells, rows), *time_tables(results, rows, title=TITLE)]


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
    known = facts_by_row(cells, rows.frame, numbers=_FACTS)
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
