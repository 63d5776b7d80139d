"""Which metrics of a run stand together in one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


# What an input of a task costs stands in `inputs.py`, how fine-tuning went in `training.py`.
COSTS = ("prompt_tokens", "answer_tokens", "flops_all", "flops_scored")
LOSSES = ("loss_before", "loss_after")
_ACCURACIES = {"acc", "acc_norm", "acc_bytes"}
_PERPLEXITIES = {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"}


@dataclass(frozen=True)
class Panel:
    """One table's worth of metrics of one suite.

    Attributes:
        suite_id: the suite, parameters and all.
        suite: its name.
        kind: "fraction" (0–1, more is better, shown in %), "perplexity" or "number".
        metric: the metric of a "fraction" panel; "accuracy" where tasks have one each, but not
            all the same one; else "".
        columns: (task, metric) in order.
        averaged: the tasks whose mean is the row's score.
        limit: only the first so many documents were scored, or None.
        chance: task -> what guessing scores, where known.
        best: task -> the best possible score, where known.
    """

    suite_id: str
    suite: str
    kind: str
    metric: str
    columns: tuple[tuple[str, str], ...]
    averaged: tuple[str, ...]
    limit: int | None
    chance: Mapping[str, float]
    best: Mapping[str, float]


def find_panels(metrics: pl.LazyFrame, samples: pl.LazyFrame) -> list[Panel]:
    """Sort a run's metrics into tables, in the order in which they were first measured.

    Where each task of a suite has one accuracy, plain or normalised, these share a table and a
    mean.
    """
    sampled = set(samples.select("suite_id", "task", "metric").unique().collect().rows())
    panels: dict[tuple[str, str, str], list[dict[str, object]]] = {}
    metrics = metrics.filter(~pl.col("metric").is_in((*COSTS, *LOSSES)))
    facts = metrics.group_by("suite_id", "suite", "task", "metric", maintain_order=True).agg(
        pl.col("limit").first(),
        pl.col("higher_is_better").first(),
        pl.col("value").min().alias("low"),
        pl.col("value").max().alias("high"),
        pl.col("chance").drop_nulls().first(),
        pl.col("best").drop_nulls().first(),
    )
    found = facts.collect().rows(named=True)
    mixed = _mixed(found)
    for row in found:
        kind = _kind(row)
        metric = row["metric"] if kind == "fraction" else ""
        if metric in _ACCURACIES and row["suite_id"] in mixed:
            metric = "accuracy"
        panels.setdefault((row["suite_id"], kind, metric), []).append(row)
    return [_panel(key, members, sampled) for key, members in panels.items()]


def _mixed(found: Sequence[Mapping[str, object]]) -> set[object]:
    """Find the suites with more than one kind of accuracy, but one alone for each task."""
    of_task: dict[object, dict[object, set[object]]] = {}
    for row in found:
        if row["metric"] in _ACCURACIES:
            of_task.setdefault(row["suite_id"], {}).setdefault(row["task"], set()).add(
                row["metric"]
            )
    return {
        suite
        for suite, tasks in of_task.items()
        if all(len(m) == 1 for m in tasks.values()) and len(set().union(*tasks.values())) > 1
    }


def _kind(row: Mapping[str, object]) -> str:
    if row["metric"] in _PERPLEXITIES:
        return "perplexity"
    low, high = row["low"], row["high"]
    inside = low is None or (
        isinstance(low, float) and isinstance(high, float) and 0 <= low <= high <= 1
    )
    return "fraction" if row["higher_is_better"] and inside else "number"


def _panel(
    key: tuple[str, str, str],
    members: Sequence[Mapping[str, object]],
    sampled: set[tuple[str, str, str]],
) -> Panel:
    suite_id, kind, metric = key
    tasks = [str(m["task"]) for m in members]
    # lm-eval's groups have scores of their own and no documents: they are no further tasks.
    own = [str(m["task"]) for m in members if (suite_id, m["task"], m["metric"]) in sampled]
    limit = members[0]["limit"]
    return Panel(
        suite_id=suite_id,
        suite=str(members[0]["suite"]),
        kind=kind,
        metric=metric,
        columns=tuple((str(m["task"]), str(m["metric"])) for m in members),
        averaged=tuple(own or tasks) if kind == "fraction" else (),
        limit=limit if isinstance(limit, int) else None,
        chance={
            t: c for t, m in zip(tasks, members, strict=True) if isinstance(c := m["chance"], float)
        },
        best={
            t: b for t, m in zip(tasks, members, strict=True) if isinstance(b := m["best"], float)
        },
    )
