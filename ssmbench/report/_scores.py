"""Scores of every row with standard errors, and paired differences to the dense row.

Both come from per-document samples wherever there are any. A document's value is the mean of
its value over the row's seeds, so that the standard error is over documents, and seeds are
told apart (`seed_sd`). With value v and weight w of a document (w = 1 for accuracies; tokens
for nats), a row's mean is R = Σv / Σw, its standard error over n documents is

    sqrt(n / (n − 1) · Σ (v − R·w)²) / Σw

which for w = 1 is lm-eval's sqrt(Σ (x − mean)² / (n − 1) / n). The difference to the dense row
is the same over v − v_dense, document by document; the 95 % interval is ±1.96 of its standard
error. A mean over k tasks has the standard error sqrt(Σ se²) / k.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from ssmbench.report import _pairs
from ssmbench.report._pairs import NLL, PANEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Z95 = 1.96
DENSE = "dense"


@dataclass(frozen=True)
class Difference:
    """Row minus dense row, paired by document: fractions, or nats per token.

    `stderr` is None for a single document. `reason` says why `value` is None.
    """

    value: float | None
    stderr: float | None = None
    reason: str | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, or None."""
        if self.value is None or self.stderr is None:
            return None
        return self.value - Z95 * self.stderr, self.value + Z95 * self.stderr

    @property
    def verdict(self) -> str:
        """Tell `below`, `above` or `unclear` (zero is inside); empty without an interval."""
        interval = self.interval
        if interval is None:
            return ""
        if interval[1] < 0:
            return "below"
        return "above" if interval[0] > 0 else "unclear"


@dataclass(frozen=True)
class Score:
    """One row's score on one task.

    Attributes:
        value: mean over the row's seeds; None with a `reason`.
        stderr: over documents, or None.
        n_seeds: cells that have this score.
        seeds: cell id -> that seed's value.
        difference: to the dense row.
        n: documents.
    """

    value: float | None
    stderr: float | None
    seeds: Mapping[str, float]
    difference: Difference
    n: int | None
    reason: str | None = None

    @property
    def seed_sd(self) -> float | None:
        """The standard deviation over seeds (n − 1), or None for one seed."""
        return statistics.stdev(self.seeds.values()) if len(self.seeds) > 1 else None


def no_score(reason: str) -> Score:
    """Give the score of a row that has none."""
    return Score(None, None, {}, Difference(None, reason=reason), None, reason=reason)


Key = tuple[int, str, str, str]  # row, suite_id, task, metric


def scores(
    metrics: pl.LazyFrame,
    samples: pl.LazyFrame,
    links: pl.DataFrame,
    *,
    differences: bool = True,
    other: str = DENSE,
) -> dict[Key, Score]:
    """Compute every score of a run.

    Args:
        metrics: the table of that name.
        samples: the table of that name.
        links: cell_id, row, dense_row (see `_rows.Rows.frame`).
        differences: whether to pair the documents too, which takes longest.
        other: what the rows are that `dense_row` names, for people.
    """
    found = metrics.join(links.lazy(), on="cell_id").collect()
    kinds = _pairs.sample_kinds(metrics, samples)
    values = (
        found.group_by("row", *PANEL, maintain_order=True)
        .agg(
            pl.col("value").mean(),
            pl.col("value").alias("values"),
            pl.col("cell_id").alias("cell_ids"),
            pl.col("stderr").mean(),
            pl.col("n").max(),
            pl.col("reason").drop_nulls().first(),
        )
        .join(kinds, on=PANEL, how="left", maintain_order="left")
    )
    documents = _pairs.documents(samples, links)
    errors = _by_key(_pairs.ratios(documents, value="value"))
    changes = _by_key(_pairs.differences(documents, links)) if differences else None
    dense_of = dict(links.select("row", "dense_row").rows())
    result = {}
    for row in values.iter_rows(named=True):
        key = (row["row"], row["suite_id"], row["task"], row["metric"])
        sample_key = (*key[:3], row["kind"])
        pairs = zip(row["cell_ids"], row["values"], strict=True)
        seeds = {cell_id: value for cell_id, value in pairs if value is not None}
        stderr = row["stderr"]
        if len(seeds) > 1 and sample_key in errors:
            stderr = _score_stderr(row, errors[sample_key])
        result[key] = Score(
            value=row["value"],
            stderr=stderr,
            seeds=seeds,
            difference=_difference(row, sample_key, dense_of, changes, other),
            n=row["n"],
            reason=row["reason"] if row["value"] is None else None,
        )
    return result


def mean_score(parts: Sequence[Score]) -> Score:
    """Average scores over tasks, with standard errors of independent tasks.

    A part without a value leaves none to the mean: means over different tasks are not
    comparable.
    """
    if not parts or any(p.value is None for p in parts):
        reasons = dict.fromkeys(p.reason for p in parts if p.reason)
        return no_score("; ".join(reasons) or "a task has no score")
    values = [p.value for p in parts if p.value is not None]
    return Score(
        value=math.fsum(values) / len(values),
        stderr=_mean_stderr([p.stderr for p in parts]),
        seeds=_mean_by_seed(parts),
        difference=_mean_difference([p.difference for p in parts]),
        n=sum(p.n or 0 for p in parts),
    )


def _mean_by_seed(parts: Sequence[Score]) -> dict[str, float]:
    everywhere = [c for c in parts[0].seeds if all(c in p.seeds for p in parts)]
    return {c: math.fsum(p.seeds[c] for p in parts) / len(parts) for c in everywhere}


def _mean_difference(parts: Sequence[Difference]) -> Difference:
    values = [p.value for p in parts if p.value is not None]
    if len(values) < len(parts):
        reasons = dict.fromkeys(p.reason for p in parts if p.reason)
        return Difference(None, reason="; ".join(reasons))
    return Difference(math.fsum(values) / len(values), _mean_stderr([p.stderr for p in parts]))


def _mean_stderr(parts: Sequence[float | None]) -> float | None:
    known = [p for p in parts if p is not None]
    if len(known) < len(parts):
        return None
    return math.sqrt(math.fsum(p * p for p in known)) / len(known)


def _by_key(frame: pl.DataFrame) -> dict[Key, dict[str, object]]:
    return {
        (r["row"], r["suite_id"], r["task"], r["metric"]): r for r in frame.iter_rows(named=True)
    }


def _score_stderr(row: Mapping[str, object], error: Mapping[str, object]) -> float | None:
    """Give the standard error of a mean over seeds: over documents averaged over the seeds."""
    stderr, value = error["stderr"], row["value"]
    if not error["whole"] or not isinstance(stderr, float) or not isinstance(value, float):
        return None
    # The delta method: a perplexity's error is its own size times that of its nats.
    return stderr * value if row["kind"] == NLL else stderr


def _difference(
    row: Mapping[str, object],
    key: Key,
    dense_of: Mapping[int, int | None],
    changes: Mapping[Key, Mapping[str, object]] | None,
    other: str,
) -> Difference:
    if changes is None:
        return Difference(None, reason="not asked for")
    dense = dense_of[key[0]]
    if dense is None:
        return Difference(None, reason=f"no {other} cell of this model and dtype in this run")
    if dense == key[0]:
        return Difference(None, reason=other)
    if row["value"] is None or not row["kind"]:
        why = "no score" if row["value"] is None else "no per-document values"
        return Difference(None, reason=f"no difference to {other}: {why}")
    found = changes[key]
    if not found["n_dense"]:
        return Difference(None, reason=f"the {other} cell has no score here")
    if found["n_paired"] != found["n_documents"] or found["n_paired"] != found["n_dense"]:
        why = f"{found['n_documents']} documents here, {found['n_dense']} {other}"
        return Difference(None, reason=f"scored on other documents than {other} ({why})")
    if not found["steady"]:
        return Difference(None, reason="the seeds were scored on different documents")
    if not found["same"]:
        return Difference(None, reason=f"the documents' token counts differ from {other}")
    ratio, stderr = found["ratio"], found["stderr"]
    assert isinstance(ratio, float)
    return Difference(ratio, stderr if isinstance(stderr, float) else None)
