"""Inputs: how long a task's prompts and answers are, and what one of mean length costs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.report._by_row import of_rows
from ssmbench.report._format import count, significant
from ssmbench.report._panels import COSTS
from ssmbench.report._table import Column, Shown, Table, missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._results import Results
    from ssmbench.report._rows import Row, Rows

TITLE = "Inputs"
ORDER = 73

_LENGTHS = ("prompt_tokens", "answer_tokens")
_FLOPS = ("flops_all", "flops_scored")


def build(results: Results) -> list[Table]:
    """Build one table for each suite that counts tokens: FLOPs of rows, and the tasks' lengths.

    Args:
        results: the run's.
    """
    rows = results.rows
    found = (
        results["metrics"]
        .filter(pl.col("metric").is_in(COSTS))
        .pipe(of_rows, rows.frame)
        .group_by("suite_id", "suite", "row", "task", "metric", maintain_order=True)
        .agg(pl.col("value").mean())
        .collect()
    )
    suites = found.select("suite_id", "suite").unique(maintain_order=True)
    return [
        _table(part, rows, several=suites.filter(suite=suite).height > 1)
        for (_, suite), part in found.group_by("suite_id", "suite", maintain_order=True)
    ]


def _table(found: pl.DataFrame, rows: Rows, *, several: bool) -> Table:
    tasks = list(dict.fromkeys(found["task"]))
    at = {(r["row"], r["task"], r["metric"]): r["value"] for r in found.iter_rows(named=True)}
    suite, suite_id = found["suite"][0], found["suite_id"][0]
    rows = rows.wanted(set(found["row"]))
    lines = [(*row.key, *(_flops(at, row, t, suite) for t in tasks)) for row in rows.rows]
    tail = f"-{suite_id}" if several else ""
    return Table(
        title=f"{TITLE}: {suite}" + (f" (suite {suite_id})" if several else ""),
        name=re.sub(r"[^0-9A-Za-z_-]+", "-", f"inputs-{suite}{tail}"),
        columns=(
            *rows.columns,
            *(Column(t, parts=(*_FLOPS, *_LENGTHS), prefix=t) for t in tasks),
        ),
        rows=(*lines, *_length_rows(at, tasks, rows)),
        sections=rows.sections | {len(lines)},
        notes=(
            "FLOPs of a prompt and one answer of the task's mean tokens (the last rows), run by"
            " themselves: the head on every position that reaches it [on the answer's alone].",
        ),
    )


def _flops(at: Mapping[Any, float], row: Row, task: str, suite: str) -> Shown:
    values = {name: at.get((row.index, task, name)) for name in _FLOPS}
    every, scored = values.values()
    if every is None or scored is None:
        return missing(row.why_missing(f"suite {suite} was not run on this cell", suite=suite))
    return Shown(f"{count(every)} [{count(scored)}]", values)


def _length_rows(
    at: Mapping[Any, float], tasks: Sequence[str], rows: Rows
) -> list[tuple[Shown, ...]]:
    """Make rows of mean tokens: one pair for all models, or for those of one tokenizer."""
    models: dict[tuple[float | None, ...], list[str]] = {}
    for row in rows.rows:
        lengths = tuple(at.get((row.index, t, name)) for name in _LENGTHS for t in tasks)
        if any(value is not None for value in lengths):
            models.setdefault(lengths, []).append(row.key[0].text)
    made = []
    for lengths, of in models.items():
        whose = "" if len(models) == 1 else ", ".join(dict.fromkeys(of))
        for i, name in enumerate(_LENGTHS):
            part = lengths[i * len(tasks) : (i + 1) * len(tasks)]
            cells = [
                missing("not counted") if v is None else Shown(significant(v, 4), {name: v})
                for v in part
            ]
            rest = [Shown("")] * (len(rows.columns) - 2)
            label = name.replace("_", " ")
            made.append((Shown(whose, {"model": whose or None}), Shown(label), *rest, *cells))
    return made
