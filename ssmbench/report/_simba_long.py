"""Simba's tables of length: perplexity after more and more context, and the time of a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from ssmbench.report import quality
from ssmbench.report._by_row import of_rows
from ssmbench.report._format import count, percent, seconds
from ssmbench.report._paper import Grid, PaperRun
from ssmbench.report._paper_cells import PARTS
from ssmbench.report._rows import DENSE
from ssmbench.report._simba import (
    HEAVY,
    KEYS,
    MODELS,
    SIMBA,
    keys,
    of_simba,
    places,
    shown_score,
    table,
    transformers,
    warnings,
)
from ssmbench.report._table import Column, Shown, Table, missing
from ssmbench.report.published import simba

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ssmbench.report.published import Place

_SPARSE = "dense+sparse"
_SUITES = ("long_context",)
_USUAL = (512, 1024, 2048, 3072, 4096)
_LONG = Grid("grids/simba-long.yaml", MODELS, _SUITES)
_TUNE = Grid("grids/simba-fine-tune.yaml", ("mamba-370m",), _SUITES)
_TIMED = Grid("grids/simba-time.yaml", ("mamba-790m", "mamba-2.8b"), ("latency",))
_PERPLEXITY = (
    "Perplexity of the same snippets after so many tokens of context ± standard error over texts;"
    f" lower is better. {quality.MARKS}"
)


def fine_tuned(run: PaperRun) -> Table:
    """Table 2: whether a model that learns with its tokens dropped reads far context better."""
    trained = [place.model for place in run.at if place.fine_tune == _SPARSE]
    models = list(dict.fromkeys(trained)) or list(_TUNE.models)
    rows: list[tuple[Shown, ...]] = []
    sections = set()
    contexts = _contexts(run)
    for model in models:
        sections.add(len(rows))
        dense, cut = places(model, HEAVY)
        names = {DENSE: dense, SIMBA: cut, f"{SIMBA}, trained": cut._replace(fine_tune=_SPARSE)}
        for name, place in names.items():
            made = (_perplexity(run, place, context, _TUNE) for context in contexts)
            rows.append((*keys(model, name), *made))
    columns = [Column(_tokens(c), parts=PARTS, prefix=c) for c in contexts]
    return table(
        2,
        "perplexity by context, before and after training with tokens dropped",
        (*KEYS, *columns),
        rows,
        (_PERPLEXITY, "Simba at ratio 0.9; trained by dense+sparse."),
        sections=sections,
        warnings=warnings(run, models, _SUITES),
    )


def contexts(run: PaperRun) -> Table:
    """Table 5: perplexity by context and its FLOPs."""
    of_mamba, others = of_simba(run), transformers(run)
    asked = _contexts(run)
    rows: list[tuple[Shown, ...]] = []
    sections = set()
    for model in [*of_mamba, *others]:
        sections.add(len(rows))
        for place in places(model, HEAVY)[: 1 if model in others else 2]:
            made = [f(run, place, c, _LONG) for c in asked for f in (_perplexity, _flops)]
            rows.append((*keys(model, place.method), *made))
    columns = []
    for c in asked:
        columns.append(Column("perplexity", parts=PARTS, prefix=c, group=_tokens(c)))
        columns.append(Column("FLOPs", parts=("flops_all",), prefix=c, group=_tokens(c)))
    told = (
        _PERPLEXITY,
        "FLOPs: of the context and the snippet, the head on every position. Simba at ratio 0.9.",
    )
    return table(
        5,
        "perplexity by context, and its FLOPs",
        (*KEYS, *columns),
        rows,
        told,
        sections=sections,
        warnings=warnings(run, [*of_mamba, *others], _SUITES),
    )


def times(run: PaperRun) -> Table:
    """Table 6: the time of a prompt, which never stands without the quality it was bought with."""
    found = _prefill(run)
    shapes = sorted({shape for timed in found.values() for shape in timed})
    panel, scores = quality.mean_scores(run.results, run.results.rows)
    suite = panel.suite if panel else "quality"
    grid = _TIMED._replace(suites=(suite,))
    rows: list[tuple[Shown, ...]] = []
    sections = set()
    for model in of_simba(run):
        sections.add(len(rows))
        both = places(model, HEAVY)
        at = [run.at.get(place, [])[:1] for place in both]
        means = [
            missing(run.why(place, grid))
            if not row or row[0].index not in scores
            else shown_score(run, place, scores[row[0].index], row[0], panel, grid)
            for place, row in zip(both, at, strict=True)
        ]
        timed = found.get(at[1][0].index, {}) if at[1] else {}
        why = run.why(both[1], _TIMED)
        lines = (
            (DENSE, means[0], "dense_median_s", seconds),
            (SIMBA, means[1], "median_s", seconds),
            ("speed-up [%]", Shown(""), "speedup", lambda value: percent(value - 1)),
        )
        for name, mean, what, text in lines:
            made = (_time(timed.get(shape, {}).get(what), what, text, why) for shape in shapes)
            rows.append((*keys(model, name), mean, *made))
    columns = [Column(f"{suite} mean", unit="%", parts=PARTS, prefix="quality")]
    columns += [
        Column(f"{batch}×{length}", parts=("median_s", "speedup"), prefix=f"{batch}x{length}")
        for batch, length in shapes
    ]
    most = next(n for n in simba() if n.metric == "speedup_at_most")
    told = (
        "Columns are batch × length: median time of a prompt, dense and simba in turns in one"
        " process. Speed-up: t_dense / t_simba − 1. Simba at ratio 0.9.",
        f"Published: at most +{100 * float(most.value):.0f} % for {most.model} (appendix D.1), on 8"
        " RTX 2080 Ti; the times in its table are not public.",
    )
    return table(
        6,
        "time of a prompt by length",
        (*KEYS, *columns),
        rows,
        told,
        sections=sections,
        warnings=warnings(run, of_simba(run), (suite,)),
    )


def _prefill(run: PaperRun) -> Mapping[int, dict[tuple[int, int], Mapping[str, float | None]]]:
    """Give every row's prompt times by (batch, length): means over its seeds."""
    frame = (
        run.results["latency"]
        .filter(pl.col("phase") == "prefill")
        .pipe(of_rows, run.results.rows.frame)
        .group_by("row", "batch", "length")
        .agg(pl.col("median_s", "dense_median_s", "speedup").mean())
        .collect()
    )
    found: dict[int, dict[tuple[int, int], Mapping[str, float | None]]] = {}
    for at in frame.iter_rows(named=True):
        found.setdefault(at["row"], {})[at["batch"], at["length"]] = at
    return found


def _time(value: float | None, what: str, text: Callable[[float], str], why: str) -> Shown:
    part = "speedup" if what == "speedup" else "median_s"
    return missing(why) if value is None else Shown(text(value), {part: value})


def _contexts(run: PaperRun) -> Sequence[str]:
    """Name the tasks of long_context in this run, by length."""
    found = {
        task
        for panel in run.results.panels
        if panel.suite == _SUITES[0] and panel.kind == "perplexity"
        for task, _ in panel.columns
    }
    return sorted(found, key=_length) or [f"context_{n}" for n in _USUAL]


def _length(task: str) -> int:
    return int(task.rpartition("_")[2])


def _tokens(task: str) -> str:
    return f"{_length(task)} tokens"


def _perplexity(run: PaperRun, place: Place, task: str, grid: Grid) -> Shown:
    rows = run.at.get(place)
    panel = run.panel(rows[0], _SUITES, kind="perplexity") if rows else None
    if not rows or panel is None:
        return missing(run.why(place, grid))
    column = next((c for c in panel.columns if c[0] == task), None)
    if column is None:
        return missing(f"{task} was not asked for")
    score = quality.score_of(panel, rows[0], run.results.scores, column)
    return shown_score(run, place, score, rows[0], panel, grid)


def _flops(run: PaperRun, place: Place, task: str, grid: Grid) -> Shown:
    rows = run.at.get(place)
    panel = run.panel(rows[0], _SUITES, kind="perplexity") if rows else None
    if not rows or panel is None:
        return missing(run.why(place, grid))
    value = run.costs.get((rows[0].index, panel.suite_id, task, "flops_all"))
    if value is None:
        return missing(f"{task} was not counted")
    return Shown(count(value), {"flops_all": value})
