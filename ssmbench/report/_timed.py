"""What was timed: every row at every shape, with its repeats and with what it was bought with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from ssmbench.report._by_row import of_rows
from ssmbench.report._format import percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._points import Facts
    from ssmbench.report._results import Results
    from ssmbench.report._scores import Score

_NUMBERS = ("median_s", "p10_s", "p90_s", "dense_median_s", "speedup")


class Timed(NamedTuple):
    """One row at one shape: seconds, and every repeat.

    Attributes:
        facts: the row.
        place: device and phase.
        batch: sequences at once.
        length: tokens of each.
        numbers: median, percentiles, the dense model's median, speedup.
        raw: every repeat.
        dense_raw: the dense model's, taken in turns with them.
        is_disturbed: whether others are known to have used the device meanwhile.
    """

    facts: Facts
    place: str
    batch: int
    length: int
    numbers: Mapping[str, float | None]
    raw: tuple[float, ...]
    dense_raw: tuple[float, ...]
    is_disturbed: bool = False

    @property
    def ratios(self) -> tuple[float, ...]:
        """The dense model's time over this one's, turn by turn."""
        pairs = zip(self.dense_raw, self.raw, strict=False)
        return tuple(dense / own for dense, own in pairs if own > 0)


def all_timed(results: Results) -> list[Timed]:
    """Give every timed shape of every row; of several seeds, means, and all their repeats.

    The order does not depend on that of the table.
    """
    keys = ["row", "device", "phase", "batch", "length"]
    frame = (
        results["latency"]
        .filter(pl.col("median_s").is_not_null())
        .pipe(of_rows, results.rows.frame)
        .group_by(keys, maintain_order=True)
        .agg(
            *(pl.col(name).mean() for name in _NUMBERS),
            pl.col("raw_s").list.explode(),
            pl.col("dense_raw_s").list.explode(),
            pl.col("publishable").min(),
        )
        .sort("batch", "length")
        # Prefill before decode.
        .sort("row", "device", "phase", descending=[False, False, True], maintain_order=True)
        .collect()
    )
    facts = {f.row.index: f for f in results.facts}
    return [
        Timed(
            facts=facts[r["row"]],
            place=f"{r['phase']}, {r['device']}",
            batch=r["batch"],
            length=r["length"],
            numbers={n: r[n] for n in _NUMBERS},
            raw=tuple(v for v in r["raw_s"] if v is not None),
            dense_raw=tuple(v for v in r["dense_raw_s"] if v is not None),
            is_disturbed=r["publishable"] is False,
        )
        for r in frame.iter_rows(named=True)
    ]


def told(f: Facts, quality: Mapping[int, Score]) -> str:
    """Name a row with its quality in %."""
    return f"{f.label} ({value_of(f, quality)})"


def value_of(f: Facts, quality: Mapping[int, Score]) -> str:
    """Give a row's quality in %, or say that there is none."""
    score = quality.get(f.row.index)
    return "no quality" if score is None or score.value is None else f"{percent(score.value)} %"


def bought(panel: Panel | None) -> str:
    """Say what the numbers in parentheses are."""
    if panel is None:
        return "No suite of this run measured quality: these times stand without it."
    return f"In parentheses: the mean accuracy over the tasks of {panel.suite}."


def disturbed(timed: Sequence[Timed]) -> tuple[str, ...]:
    """Warn of times that were taken while others used the device."""
    n = sum(t.is_disturbed for t in timed)
    if not n:
        return ()
    return (f"not publishable: {n} of {len(timed)} times taken while others used the device",)


def records(timed: Sequence[Timed], quality: Mapping[int, Score]) -> list[dict[str, Any]]:
    """Give a line of a figure's table for each shape of each row."""
    made = []
    for t in timed:
        score = quality.get(t.facts.row.index)
        made.append(
            {"model": t.facts.model, "method": t.facts.name, "ratio": t.facts.ratio}
            | {"phase": t.place, "batch": t.batch, "length": t.length, **t.numbers}
            | {"quality": score.value if score else None}
            | {"raw_s": " ".join(f"{v:.6g}" for v in t.raw)}
            | {"dense_raw_s": " ".join(f"{v:.6g}" for v in t.dense_raw)}
            | {"reason": "not measured"}
        )
    return made
