"""Criteria: does it matter how the prompt's tokens are ranked?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmbench.plan.labels import default_params
from ssmbench.report._figure import Figure
from ssmbench.report._format import fixed, percent
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
from ssmbench.report._style import INK, REFERENCE, Style

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._points import ByModel, Facts
    from ssmbench.report._results import Results
    from ssmbench.report._scores import Score

TITLE = "Criteria"
ORDER = 75

_TITLE = "Does it matter how tokens are ranked?"
_READINGS = "Does it matter how the paper is read?"
_DENSE = Style(INK, "", (4.0, 1.5))
_CHANCE = Style(REFERENCE, "", (1.0, 1.6))
_OTHER = Style(REFERENCE, "", (6.0, 1.5, 1.2, 1.5))


def build(results: Results) -> list[Figure]:
    """Build for each suite a figure of criteria, and one of the other parameters.

    Args:
        results: the run's.
    """
    facts = results.facts
    tokens = [f for f in facts if _is_wanted(f)]
    dense = [f for f in facts if f.is_plain_dense]
    made: list[Figure] = []
    for panel in results.panels:
        if panel.kind == "fraction":
            scores = means(results, panel, [*tokens, *dense])
            for kind, title, wanted, name_of in _kinds(tokens):
                rows = [f for f in wanted if f.row.index in scores]
                groups = [g for g in by_model(rows) if len({name_of(f) for f in g.rows}) > 1]
                if groups:
                    made.append(_figure(panel, kind, title, groups, dense, scores, name_of))
    if any(figure.name.startswith("criteria") for figure in made):
        return made
    why = "No model has cells of token dropping by two criteria with a score"
    reason = fill(results, why, toy="simba-toy-ablation", real="simba-ablation")
    return [Figure(_TITLE, "criteria", "", reason=reason), *made]


def _is_wanted(f: Facts) -> bool:
    return len(f.steps) == 1 and f.drops_tokens and f.row.fine_tune == "none"


def _changed(f: Facts) -> dict[str, Any]:
    """Give the parameters that are not the method's defaults."""
    usual = default_params(f.steps[0]["name"])
    return {k: v for k, v in f.steps[0]["params"].items() if usual.get(k, v) != v}


def _kinds(
    tokens: Sequence[Facts],
) -> list[tuple[str, str, list[Facts], Callable[[Facts], str]]]:
    """Give the two questions: name of the file, title, rows, and what names a series."""
    criteria = [f for f in tokens if set(_changed(f)) <= {"criterion"}]
    readings = [
        f for f in tokens if "criterion" in f.steps[0]["params"] and "criterion" not in _changed(f)
    ]
    return [
        ("criteria", _TITLE, criteria, _criterion),
        ("readings", _READINGS, readings, _reading),
    ]


def _criterion(f: Facts) -> str:
    return str(f.steps[0]["params"].get("criterion", f.method))


def _reading(f: Facts) -> str:
    told = [f"{k}={v}" for k, v in _changed(f).items()]
    return ", ".join(told) or "default"


def _figure(
    panel: Panel,
    kind: str,
    title: str,
    groups: Sequence[ByModel],
    dense: Sequence[Facts],
    scores: Mapping[int, Score],
    name_of: Callable[[Facts], str],
) -> Figure:
    styles = looks([name_of(f) for g in groups for f in g.rows])
    chart = Chart(
        [_plot(g, panel, dense, scores, name_of, styles) for g in groups],
        x="ratio, % of the prompt's tokens gone at the last layer",
        y=f"mean of {panel.suite}, %",
        x_scale="percent",
        y_scale="percent",
        columns=2,
        each=2.5,
        dodge=True,
    )
    name = file_name(kind, panel.suite, panel.suite_id)
    full = f"{title} {panel.suite}"
    what = "criterion" if kind == "criteria" else "parameter"
    return Figure(
        title=full,
        name=name,
        caption=(
            f"Mean accuracy over the tasks of {panel.suite}, in %, with 95 % intervals over"
            f" documents; one line for each {what}, a little beside each other. Where a line is a"
            " mean over seeds, short dashes are the seeds. Lines across: the dense model, dense"
            " models of the same family that are smaller, chance."
            " As figure 6 of Simba (arXiv:2505.20698), where r is 100 % minus the ratio."
        ),
        alt=_alt(groups, scores, name_of),
        draw=chart.draw,
        data=data_table(name, full, _records(groups, dense, scores, name_of), keys=4),
        size=chart.size,
        warnings=warnings([panel], [f for g in groups for f in g.rows]),
    )


def _plot(
    group: ByModel,
    panel: Panel,
    dense: Sequence[Facts],
    scores: Mapping[int, Score],
    name_of: Callable[[Facts], str],
    styles: Mapping[str, Style],
) -> Plot:
    lines = []
    for name in dict.fromkeys(name_of(f) for f in group.rows):
        rows = sorted((f for f in group.rows if name_of(f) == name), key=lambda f: f.ratio)
        dots = []
        for f in rows:
            score = scores[f.row.index]
            seeds = tuple(score.seeds.values()) if len(score.seeds) > 1 else ()
            dots.append(Dot(f.ratio, score.value, *interval(score), raw=seeds))
        lines.append(Line(name, styles[name], dots))
    levels = [
        Level("dense" if f.model == group.model else f"dense {f.model}", look, value)
        for f, look, value in _levels(group, dense, scores)
    ]
    told = [panel.chance[t] for t in panel.averaged if t in panel.chance]
    if told and len(told) == len(panel.averaged):
        levels.append(Level("chance", _CHANCE, sum(told) / len(told)))
    return Plot(group.model, lines, levels)


def _levels(
    group: ByModel, dense: Sequence[Facts], scores: Mapping[int, Score]
) -> list[tuple[Facts, Style, float]]:
    """Give the model's own dense score, and those of smaller ones of its family."""
    own = next((f for f in dense if f.model == group.model), None)
    made = []
    for f in dense:
        score = scores[f.row.index].value if f.row.index in scores else None
        if own is None or score is None:
            continue
        sizes = [x.numbers["params_model"] for x in (f, own)]
        smaller = f.family == own.family and None not in sizes and sizes[0] < sizes[1]  # type: ignore[operator]
        if f is own or smaller:
            made.append((f, _DENSE if f is own else _OTHER, score))
    return made


def _records(
    groups: Sequence[ByModel],
    dense: Sequence[Facts],
    scores: Mapping[int, Score],
    name_of: Callable[[Facts], str],
) -> list[dict[str, Any]]:
    made = []
    for group in groups:
        levels = [(f, f"dense {f.model}") for f, _, _ in _levels(group, dense, scores)]
        for f, name in [*levels, *((f, name_of(f)) for f in group.rows)]:
            score = scores[f.row.index]
            low, high = interval(score)
            change = score.difference.interval or (None, None)
            made.append(
                {"model": group.model, "method": f.method, "series": name, "ratio": f.ratio}
                | {"value": score.value, "low": low, "high": high}
                | {"seeds": " ".join(f"{v:.6g}" for v in score.seeds.values())}
                | {"to_dense": score.difference.value}
                | {"to_dense_low": change[0], "to_dense_high": change[1]}
                | {"reason": score.difference.reason or "no spread: no interval"}
            )
    return made


def _alt(
    groups: Sequence[ByModel], scores: Mapping[int, Score], name_of: Callable[[Facts], str]
) -> str:
    told = []
    for group in groups:
        for ratio in sorted({f.ratio for f in group.rows}):
            rows = [f for f in group.rows if f.ratio == ratio]
            order = sorted(rows, key=lambda f: -(scores[f.row.index].value or 0))
            texts = [f"{name_of(f)} {percent(scores[f.row.index].value or 0)} %" for f in order]
            if len(texts) > 1:
                told.append(f"{group.model} at {fixed(ratio, 2)}: {', '.join(texts)}")
    return "; ".join(told) + "."
