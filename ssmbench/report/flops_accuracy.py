"""FLOPs against accuracy: does a big model that drops tokens beat one that costs as much?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from ssmbench.report._axes import Entry
from ssmbench.report._by_row import of_rows
from ssmbench.report._figure import Figure
from ssmbench.report._format import count, fixed, percent
from ssmbench.report._lines import Chart, Dot, Line, Plot, looks
from ssmbench.report._points import (
    data_table,
    file_name,
    fill,
    interval,
    warnings,
)
from ssmbench.report._style import REFERENCE, Style
from ssmbench.report.quality import mean, score_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._points import Facts
    from ssmbench.report._results import Results
    from ssmbench.report._scores import Score

TITLE = "FLOPs against accuracy"
ORDER = 72

# How far apart the costs of two models may be that are told to cost the same.
SAME_COST = 0.05
_MEAN = "mean"
Costs = dict[tuple[int, str], float]  # (row, task) -> FLOPs


class Pair(NamedTuple):
    """A row that drops tokens and a smaller dense model that costs as much.

    Attributes:
        reduced: the row.
        dense: the other model's.
        residual: FLOPs of the first over those of the second, minus 1.
    """

    reduced: Facts
    dense: Facts
    residual: float


def build(results: Results) -> list[Figure]:
    """Build one figure for each suite of accuracies: a panel for the mean and for each task.

    Args:
        results: the run's.
    """
    facts = [f for f in results.facts if f.is_plain_dense or (f.drops_tokens and len(f.steps) == 1)]
    facts = [f for f in facts if f.row.fine_tune == "none"]
    made = [_figure(results, panel, facts) for panel in results.panels if panel.kind == "fraction"]
    found = [figure for figure in made if figure is not None]
    if found:
        return found
    why = "No model that drops tokens has accuracies beside those of a dense model"
    reason = fill(results, why, toy="simba-toy", real="simba")
    return [Figure(TITLE, "flops-accuracy", "", reason=reason)]


def _figure(results: Results, panel: Panel, facts: Sequence[Facts]) -> Figure | None:
    scored = {row for row, suite_id, *_ in results.scores if suite_id == panel.suite_id}
    rows = [f for f in facts if f.row.index in scored]
    if not any(f.drops_tokens for f in rows):
        return None
    costs, counted = _costs(results, panel, rows)
    rows = [f for f in rows if (f.row.index, _MEAN) in costs]
    if not any(f.drops_tokens for f in rows):
        return None
    pairs = find_pairs(rows, {f.row.index: costs[f.row.index, _MEAN] for f in rows})
    scores = partial(_score, results, panel)
    models = [f.model for f in rows if f.is_plain_dense]
    unit = "FLOPs of an input" if counted else "FLOPs/token, prompt of 512"
    tasks = [_MEAN] if len(panel.averaged) > 1 else []
    tasks += list(panel.averaged)
    chart = Chart(
        [_plot(task, rows, costs, pairs, scores, models) for task in tasks],
        x=unit,
        y="accuracy, %",
        x_scale="log",
        y_scale="percent",
        share="",
        columns=3,
        each=2.3,
        x_text=_tick,
        extra=_extra(pairs, models),
    )
    name = file_name("flops-accuracy", panel.suite, panel.suite_id)
    title = f"{TITLE}: {panel.suite}"
    return Figure(
        title=title,
        name=name,
        caption=_caption(counted=counted),
        alt=_alt(pairs, scores),
        draw=chart.draw,
        data=data_table(name, title, _records(tasks, rows, costs, pairs, scores), keys=4),
        size=chart.size,
        warnings=warnings([panel], rows),
    )


def _tick(flops: float) -> str:
    """Write FLOPs without zeros that tell nothing: `1 M`."""
    text, blank, unit = count(flops).partition(" ")
    return (text.rstrip("0").rstrip(".") if "." in text else text) + blank + unit


def _caption(*, counted: bool) -> str:
    inputs = (
        "a prompt and one answer of the task's mean lengths, by the suite's own count"
        if counted
        else "a prompt of 512 tokens, per token, as this suite does not count its inputs"
    )
    return (
        "Accuracy in %, with 95 % intervals, against FLOPs, on a logarithmic axis. Up and left is"
        f" better. FLOPs: {inputs}. Full lines join sizes of one family with the same method and"
        " ratio; numbers name the models. Dotted lines join a model that drops tokens with a"
        f" smaller dense one that costs the same, to within {100 * SAME_COST:g} %; the table tells"
        " how far they are apart. As figure 3 of Simba (arXiv:2505.20698), where costs are"
        ' called "similar".'
    )


def _costs(results: Results, panel: Panel, rows: Sequence[Facts]) -> tuple[Costs, bool]:
    """Give the FLOPs of every row and task, and whether the suite itself counted them."""
    frame = (
        results["metrics"]
        .filter(suite_id=panel.suite_id, metric="flops_all")
        .filter(pl.col("value").is_not_null())
        .pipe(of_rows, results.rows.frame)
        .group_by("row", "task")
        .agg(pl.col("value").mean())
        .collect()
    )
    costs: Costs = {(row, task): value for row, task, value in frame.iter_rows()}
    counted = bool(costs)
    for f in rows:
        index, each = f.row.index, f.numbers["flops_per_token"]
        if counted:
            told = [costs[index, t] for t in panel.averaged if (index, t) in costs]
            if told and len(told) == len(panel.averaged):
                costs[index, _MEAN] = sum(told) / len(told)
        elif each is not None:
            costs |= {(index, task): each for task in (_MEAN, *panel.averaged)}
    return costs, counted


def find_pairs(rows: Sequence[Facts], costs: Mapping[int, float]) -> list[Pair]:
    """Find for each row that drops tokens the dense model of another size that costs as much.

    Args:
        rows: with and without token dropping.
        costs: FLOPs of each.

    Returns:
        The nearest dense row in cost, of a model that costs less than the row's own, where it is
        within `SAME_COST`; other rows have none.
    """
    dense = [f for f in rows if f.is_plain_dense]
    own = {f.model: costs[f.row.index] for f in dense}
    made = []
    for f in rows:
        if f.is_plain_dense or f.model not in own:
            continue
        smaller = [d for d in dense if costs[d.row.index] < own[f.model]]
        residuals = [(costs[f.row.index] / costs[d.row.index] - 1, d) for d in smaller]
        near = min(residuals, key=lambda pair: abs(pair[0]), default=None)
        if near is not None and abs(near[0]) <= SAME_COST:
            made.append(Pair(f, near[1], near[0]))
    return made


def _score(results: Results, panel: Panel, f: Facts, task: str) -> Score:
    if task == _MEAN:
        return mean(panel, f.row, results.scores)
    column = next(c for c in panel.columns if c[0] == task)
    return score_of(panel, f.row, results.scores, column)


def _series(f: Facts) -> str:
    """Name what joins sizes: the family, the method with its parameters, the ratio."""
    return f"{f.family}, {f.label}"


def _plot(
    task: str,
    rows: Sequence[Facts],
    costs: Costs,
    pairs: Sequence[Pair],
    score: Callable[[Facts, str], Score],
    models: Sequence[str],
) -> Plot:
    styles = looks([_series(f) for f in rows])
    found = {f.row.index: score(f, task) for f in rows}
    here = [f for f in rows if found[f.row.index].value is not None]
    here = [f for f in here if (f.row.index, task) in costs]
    lines = []
    for name in dict.fromkeys(_series(f) for f in here):
        own = [f for f in here if _series(f) == name]
        dots = [
            Dot(costs[f.row.index, task], found[f.row.index].value, *interval(found[f.row.index]))
            for f in sorted(own, key=lambda f: costs[f.row.index, task])
        ]
        lines.append(Line(name, styles[name], dots))
    drawn = {f.row.index for f in here}
    at = {i: (costs[i, task], found[i].value or 0.0) for i in drawn}
    return Plot(
        title=task,
        lines=lines,
        links=[
            (at[p.reduced.row.index], at[p.dense.row.index])
            for p in pairs
            if {p.reduced.row.index, p.dense.row.index} <= drawn
        ],
        labels=[
            (*at[f.row.index], str(models.index(f.model) + 1)) for f in here if f.is_plain_dense
        ],
    )


def _extra(pairs: Sequence[Pair], models: Sequence[str]) -> list[Entry]:
    made = [Entry(model, sign=str(i)) for i, model in enumerate(models, start=1)]
    if pairs:
        made.insert(0, Entry("costs the same", Style(REFERENCE, "", (1.0, 1.6))))
    return made


def _records(
    tasks: Sequence[str],
    rows: Sequence[Facts],
    costs: Costs,
    pairs: Sequence[Pair],
    score: Callable[[Facts, str], Score],
) -> list[dict[str, Any]]:
    matched = {p.reduced.row.index: p for p in pairs}
    made = []
    for task in tasks:
        for f in rows:
            found = score(f, task)
            low, high = interval(found)
            pair = matched.get(f.row.index)
            made.append(
                {"model": f.model, "method": f.name, "ratio": f.ratio, "task": task}
                | {"flops": costs.get((f.row.index, task))}
                | {"value": found.value, "low": low, "high": high}
                | {"costs_as": pair.dense.model if pair else None}
                | {"residual": pair.residual if pair else None}
                | {"reason": found.reason or "no dense model that costs the same"}
            )
    return made


def _alt(pairs: Sequence[Pair], score: Callable[[Facts, str], Score]) -> str:
    told = []
    for p in pairs:
        values = [score(f, _MEAN).value for f in (p.reduced, p.dense)]
        texts = ["no mean" if v is None else f"{percent(v)} %" for v in values]
        told.append(
            f"{p.reduced.model} with {p.reduced.label} {texts[0]}, dense {p.dense.model}"
            f" {texts[1]} (FLOPs {fixed(100 * p.residual, 1, sign=True)} %)"
        )
    if not told:
        return "No model that drops tokens costs the same as a smaller dense one."
    return f"Models that cost the same: {'; '.join(told)}."
