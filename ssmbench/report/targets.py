"""Targets: is the projection out of a mixer more sensitive to pruning than the one into it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.report._figure import Figure
from ssmbench.report._format import percent, significant
from ssmbench.report._lines import Chart, Dot, Level, Line, Plot, looks
from ssmbench.report._points import (
    by_model,
    data_table,
    file_name,
    fill,
    interval,
    means,
    warnings,
)
from ssmbench.report._style import INK, Style

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._points import ByModel, Facts
    from ssmbench.report._results import Results
    from ssmbench.report._scores import Score

TITLE = "Projections"
ORDER = 71

_TITLE = "In-projection against out-projection"
_NAMES = {"in_proj": "InProj", "out_proj": "OutProj", "both": "both"}
_DENSE = Style(INK, "", (4.0, 1.5))


class _Wanted(NamedTuple):
    """What is drawn: rows of one method that differ in targets and ratio, by model."""

    method: str
    groups: list[ByModel]
    dense: dict[str, Facts]


def build(results: Results) -> list[Figure]:
    """Build one figure for each method that was run on one projection at a time, and panel.

    Args:
        results: the run's.
    """
    wanted = _wanted(results.facts)
    panels = [p for p in results.panels if p.kind == "perplexity" and len(p.columns) == 1]
    panels = panels or [p for p in results.panels if p.kind == "fraction"]
    made = [_figure(results, panel, w) for w in wanted for panel in panels]
    found = [figure for figure in made if figure is not None]
    if found:
        return found
    why = "No model has cells of one method with `targets: in_proj` and with `targets: out_proj`"
    return [
        Figure(_TITLE, "targets", "", reason=fill(results, why, toy="quickstart", real="out-proj"))
    ]


def _target(f: Facts) -> str | None:
    return f.steps[0]["params"].get("targets") if len(f.steps) == 1 else None


def _wanted(facts: Sequence[Facts]) -> list[_Wanted]:
    dense = {f.model: f for f in reversed(facts) if f.is_plain_dense}
    made = []
    for method in dict.fromkeys(f.method for f in facts if _target(f)):
        groups = by_model(f for f in facts if f.method == method and _is_plain(f))
        groups = [g for g in groups if {"in_proj", "out_proj"} <= {_target(f) for f in g.rows}]
        if groups:
            made.append(_Wanted(method, groups, dense))
    return made


def _is_plain(f: Facts) -> bool:
    """Whether a row differs from its method's usual setting by targets and ratio alone."""
    return _target(f) is not None and f.row.fine_tune == "none"


def _figure(results: Results, panel: Panel, wanted: _Wanted) -> Figure | None:
    rows = [f for g in wanted.groups for f in g.rows]
    dense = [f for f in wanted.dense.values() if f.model in {g.model for g in wanted.groups}]
    scores = means(results, panel, [*rows, *dense])
    groups = by_model(f for f in rows if f.row.index in scores)
    if not groups:
        return None
    is_perplexity = panel.kind == "perplexity"
    what = "perplexity" if is_perplexity else f"mean of {panel.suite}, %"
    chart = Chart(
        [_plot(g, wanted, scores, panel) for g in groups],
        x="ratio, % of the projection's weights",
        y=what,
        x_scale="percent",
        y_scale="log" if is_perplexity else "percent",
        each=2.4,
        share="",
        dodge=True,
    )
    name = file_name("targets", wanted.method, panel.suite, panel.suite_id)
    title = f"{_TITLE}: {wanted.method}, {panel.suite}"
    return Figure(
        title=title,
        name=name,
        caption=(
            f"{what[0].upper()}{what[1:]} after {wanted.method} on the mixers' in-projections, on"
            " their out-projections, or on both, with 95 % intervals; series stand a little beside"
            f" each other. {'Logarithmic axis; lower is better. ' if is_perplexity else ''}As"
            ' figure 2 of "On Pruning State-Space LLMs" (arXiv:2502.18886), whose public code'
            " never sees the out-projection's inputs on Mamba-2."
        ),
        alt=_alt(groups, scores, panel),
        draw=chart.draw,
        data=data_table(name, title, _records(groups, wanted, scores, panel), keys=4),
        size=chart.size,
        warnings=warnings([panel], [f for g in groups for f in g.rows]),
    )


def _plot(group: ByModel, wanted: _Wanted, scores: Mapping[int, Score], panel: Panel) -> Plot:
    styles = looks(list(_NAMES.values()))
    lines = []
    for target, name in _NAMES.items():
        rows = [f for f in group.rows if _target(f) == target]
        dots = [
            Dot(f.ratio, scores[f.row.index].value, *interval(scores[f.row.index], panel.kind))
            for f in sorted(rows, key=lambda f: f.ratio)
        ]
        if dots:
            lines.append(Line(name, styles[name], dots))
    dense = wanted.dense.get(group.model)
    score = scores[dense.row.index].value if dense and dense.row.index in scores else None
    levels = [] if score is None else [Level("dense", _DENSE, score)]
    return Plot(group.model, lines, levels)


def _records(
    groups: Sequence[ByModel], wanted: _Wanted, scores: Mapping[int, Score], panel: Panel
) -> list[dict[str, Any]]:
    made = []
    for group in groups:
        dense = [f for f in (wanted.dense.get(group.model),) if f and f.row.index in scores]
        for f in [*dense, *group.rows]:
            score = scores[f.row.index]
            low, high = interval(score, panel.kind)
            made.append(
                {"model": f.model, "method": f.method, "target": _target(f) or "none"}
                | {"ratio": f.ratio, "value": score.value, "low": low, "high": high}
                | {"reason": "no spread over documents: no interval"}
            )
    return made


def _alt(groups: Sequence[ByModel], scores: Mapping[int, Score], panel: Panel) -> str:
    told = []
    for group in groups:
        ratios = sorted({f.ratio for f in group.rows})
        for ratio in ratios[-1:]:
            parts = []
            for f in group.rows:
                if f.ratio == ratio:
                    value = scores[f.row.index].value or 0.0
                    text = significant(value) if panel.kind == "perplexity" else percent(value)
                    parts.append(f"{_NAMES[str(_target(f))]} {text}")
            told.append(f"{group.model} at ratio {ratio:.3g}: {', '.join(parts)}")
    return "; ".join(told) + "."
