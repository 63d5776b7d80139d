"""Scores of every row with standard errors, and paired differences to the dense row.

Both come from per-document samples wherever there are any. A document's value is the mean of
its value over the row's seeds, so that the standard error is over documents, and seeds are
told apart (`seed_sd`). With value v and weight w of a document (w = 1 for accuracies; tokens
for nats), a row's mean is R = Σv / Σw, its standard error over n documents is

    sqrt(n / (n − 1) · Σ (v − R·w)²) / Σw

which for w = 1 is lm-eval's sqrt(Σ (x − mean)² / (n − 1) / n). The difference to the dense row
is the same over v − v_dense, document by document. Its 95 % interval and its p are

* of 0s and 1s: Tango's interval and McNemar's exact test (`_statistics`),
* of all else, such as nats and means over seeds: those of documents drawn again (`_bootstrap`).

A mean over k tasks has the standard error sqrt(Σ se²) / k, and limits from those of its tasks
(MOVER, `_statistics`). An interval leaves out zero if, and only if, p < 0.05.

A table with many differences has some at p < 0.05 by luck alone. `p_holm` is p after Holm's
correction over a family: the differences of all rows in all columns of one panel; and apart
from these, since they repeat them, the differences of all rows' means over its tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from ssmbench.report import _pairs
from ssmbench.report._by_row import of_rows
from ssmbench.report._difference import Difference, mean_difference, mean_stderr
from ssmbench.report._documents import NLL, PANEL, read_documents, sample_kinds
from ssmbench.report._statistics import Z95, holm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ssmbench.report._documents import Documents, Kind
    from ssmbench.report._panels import Panel

__all__ = [
    "DENSE",
    "Z95",
    "Difference",
    "Key",
    "Score",
    "Scores",
    "mean_score",
    "no_score",
    "scores",
]

DENSE = "dense"


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
        n = len(self.seeds)
        if n < 2:
            return None
        mean = math.fsum(self.seeds.values()) / n
        return math.sqrt(math.fsum((v - mean) ** 2 for v in self.seeds.values()) / (n - 1))


def no_score(reason: str) -> Score:
    """Give the score of a row that has none."""
    return Score(None, None, {}, Difference(None, reason=reason), None, reason=reason)


Key = tuple[int, str, str, str]  # row, suite_id, task, metric


class Scores(dict[Key, Score]):
    """Every score of a run; the means over tasks are computed once for each panel."""

    def __init__(self, scores: Mapping[Key, Score]) -> None:
        super().__init__(scores)
        self._means: dict[tuple[object, ...], dict[int, Score]] = {}

    def adjusted(self, panels: Iterable[Panel]) -> Scores:
        """Give the same scores, their differences Holm-corrected over each panel."""
        found = dict(self)
        for panel in panels:
            columns = {(panel.suite_id, *column) for column in panel.columns}
            family = [key for key in self if key[1:] in columns]
            corrected = _corrected([self[key] for key in family])
            found |= dict(zip(family, corrected, strict=True))
        return Scores(found)

    def means(self, panel: Panel) -> dict[int, Score]:
        """Give the mean over a panel's tasks of all rows that have all, Holm-corrected."""
        columns = tuple(c for c in panel.columns if c[0] in panel.averaged)
        known = (panel.suite_id, columns)
        if known not in self._means:
            rows = dict.fromkeys(row for row, suite_id, *_ in self if suite_id == panel.suite_id)
            parts = {row: [self.get((row, panel.suite_id, *c)) for c in columns] for row in rows}
            whole = {row: [s for s in found if s is not None] for row, found in parts.items()}
            means = {
                r: mean_score(found) for r, found in whole.items() if len(found) == len(columns)
            }
            self._means[known] = dict(zip(means, _corrected(list(means.values())), strict=True))
        return self._means[known]


def _corrected(family: Sequence[Score]) -> list[Score]:
    ps = holm([score.difference.p for score in family])
    return [
        replace(score, difference=replace(score.difference, p_holm=p))
        for score, p in zip(family, ps, strict=True)
    ]


def scores(
    metrics: pl.LazyFrame,
    samples: pl.LazyFrame,
    links: pl.DataFrame,
    *,
    differences: bool = True,
    other: str = DENSE,
    documents: Mapping[Kind, Documents] | None = None,
) -> Scores:
    """Compute every score of a run; `Scores.adjusted` corrects the differences.

    Args:
        metrics: the table of that name.
        samples: the table of that name.
        links: cell_id, row, dense_row (see `_rows.Rows.frame`).
        differences: whether to pair the documents too, which takes longest.
        other: what the rows are that `dense_row` names, for people.
        documents: the samples, where they have been read already.
    """
    if documents is None:
        documents = read_documents(samples)
    kinds = sample_kinds(metrics, documents)
    dense_of: dict[int, int | None] = dict(links.select("row", "dense_row").rows())
    errors, changes = _of_documents(documents, links, dense_of if differences else {})
    result = {}
    for row in _values(metrics, links).iter_rows(named=True):
        key = (row["row"], row["suite_id"], row["task"], row["metric"])
        row["kind"] = kinds.get(key[1:])
        pairs = zip(row["cell_ids"], row["values"], strict=True)
        seeds = {cell_id: value for cell_id, value in pairs if value is not None}
        stderr = row["stderr"]
        if len(seeds) > 1 and row["kind"]:
            stderr = _seeds_stderr(row, errors.get((*key[:3], row["kind"])))
        difference = Difference(None, reason="not asked for")
        if differences:
            change = changes.get((*key[:3], row["kind"] or ""))
            difference = _difference(row, dense_of[key[0]], change, other)
        result[key] = Score(
            value=row["value"],
            stderr=stderr,
            seeds=seeds,
            difference=difference,
            n=row["n"],
            reason=row["reason"] if row["value"] is None else None,
        )
    return Scores(result)


def _values(metrics: pl.LazyFrame, links: pl.DataFrame) -> pl.DataFrame:
    """Average the metrics of each row over its seeds."""
    return (
        of_rows(metrics, links)
        .group_by("row", *PANEL, maintain_order=True)
        .agg(
            pl.col("value").mean(),
            pl.col("value").alias("values"),
            pl.col("cell_id").alias("cell_ids"),
            pl.col("stderr").mean(),
            pl.col("n").max(),
            pl.col("reason").drop_nulls().first(),
        )
        .collect()
    )


def _of_documents(
    documents: Mapping[Kind, Documents],
    links: pl.DataFrame,
    dense_of: Mapping[int, int | None],
) -> tuple[dict[Key, float | None], dict[Key, _pairs.Change]]:
    """Give the standard errors over documents, and the differences, of every row."""
    rows = dict(links.select("cell_id", "row").rows())
    errors: dict[Key, float | None] = {}
    changes: dict[Key, _pairs.Change] = {}
    for kind, found in documents.items():
        averaged = _pairs.averaged(kind, found, rows)
        errors |= {(row, *kind): e for row, e in _pairs.stderrs(averaged).items()}
        paired = _pairs.changes(averaged, dense_of) if dense_of else {}
        changes |= {(row, *kind): change for row, change in paired.items()}
    return errors, changes


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
        stderr=mean_stderr([p.stderr for p in parts]),
        seeds=_mean_by_seed(parts),
        difference=mean_difference([p.difference for p in parts]),
        n=sum(p.n or 0 for p in parts),
    )


def _mean_by_seed(parts: Sequence[Score]) -> dict[str, float]:
    everywhere = [c for c in parts[0].seeds if all(c in p.seeds for p in parts)]
    return {c: math.fsum(p.seeds[c] for p in parts) / len(parts) for c in everywhere}


def _seeds_stderr(row: Mapping[str, object], stderr: float | None) -> float | None:
    """Give the standard error of a mean over seeds: over documents averaged over the seeds."""
    value = row["value"]
    if stderr is None or not isinstance(value, float):
        return None
    # The delta method: a perplexity's error is its own size times that of its nats.
    return stderr * value if row["kind"] == NLL else stderr


def _difference(
    row: Mapping[str, object], dense: int | None, change: _pairs.Change | None, other: str
) -> Difference:
    if dense is None:
        return Difference(None, reason=f"no {other} cell of this model and dtype in this run")
    if dense == row["row"]:
        return Difference(None, reason=other)
    if row["value"] is None or change is None:
        why = "no score" if row["value"] is None else "no per-document values"
        return Difference(None, reason=f"no difference to {other}: {why}")
    here, there = change.n
    unlike = {
        "dense": f"the {other} cell has no score here",
        "documents": f"scored on other documents than {other}"
        f" ({here} documents here, {there} {other})",
        "seeds": "the seeds were scored on different documents",
        "weights": f"the documents' token counts differ from {other}",
    }
    if change.problem:
        return Difference(None, reason=unlike[change.problem])
    return Difference(
        change.value,
        change.stderr,
        interval=change.interval,
        p=change.p,
        freedom=change.freedom,
    )
