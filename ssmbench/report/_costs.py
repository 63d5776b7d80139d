"""What a row costs, as a multiple of the dense model: times, memory, FLOPs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from ssmbench.report._by_row import of_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._points import Facts
    from ssmbench.report._results import Results

# Bytes of a weight. What is stored, not what a kernel reads.
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
_SPAN = ("median_s", "p10_s", "p90_s")


class Cost(NamedTuple):
    """What a panel's y axis is, and what each row costs: value, low, high, relative to dense."""

    name: str
    of: Mapping[int, tuple[float, float | None, float | None]]


def all_costs(results: Results, facts: Sequence[Facts]) -> list[Cost]:
    """Give every kind of cost that is known: times for each device and phase, memory, FLOPs."""
    return [*_times(results), _memory(facts), _flops(facts)]


def _times(results: Results) -> list[Cost]:
    """Give the median time over the dense one's for each device and phase, at its longest shape."""
    frame = (
        results["latency"]
        .filter(pl.col("median_s").is_not_null() & (pl.col("dense_median_s") > 0))
        .pipe(of_rows, results.rows.frame)
        .group_by("device", "phase", "batch", "length", "row")
        .agg((pl.col(name) / pl.col("dense_median_s")).mean() for name in _SPAN)
        .sort("device", "phase", descending=[False, True])  # Prefill before decode.
        .collect()
    )
    made = []
    for (device, phase), part in frame.group_by("device", "phase", maintain_order=True):
        shapes = part.group_by("batch", "length").len().sort("len", "length", "batch")
        batch, length = shapes.select("batch", "length").row(-1)
        chosen = part.filter(batch=batch, length=length)
        of = {row: (at, low, high) for row, at, low, high in chosen.select("row", *_SPAN).rows()}
        made.append(Cost(f"{phase} time, {batch}×{length}, {device}", of))
    return made


def _memory(facts: Sequence[Facts]) -> Cost:
    def weigh(f: Facts, tail: str) -> float | None:
        weights, state = f.numbers[f"params_model{tail}"], f.numbers[f"state_bytes{tail}"]
        size = _BYTES.get(f.dtype)
        return None if None in (weights, state, size) else weights * size + state  # type: ignore[operator]

    found = {f.row.index: (weigh(f, ""), weigh(f, "_dense")) for f in facts}
    return Cost(
        "weights and state, bytes",
        {i: (now / was, None, None) for i, (now, was) in found.items() if now and was},
    )


def _flops(facts: Sequence[Facts]) -> Cost:
    names = ("flops_per_token", "flops_per_token_dense")
    found = {f.row.index: tuple(f.numbers[n] for n in names) for f in facts}
    return Cost(
        "FLOPs of a 512-token prompt",
        {i: (now / was, None, None) for i, (now, was) in found.items() if now and was},
    )
