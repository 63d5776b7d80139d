"""Context: how perplexity falls, or does not, with what stands before a text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ssmbench.report._figure import Figure
from ssmbench.report._format import significant
from ssmbench.report._lines import Chart, Dot, Line, Plot, looks
from ssmbench.report._points import (
    by_model,
    data_table,
    file_name,
    fill,
    interval,
    warnings,
)
from ssmbench.report._ticks import number
from ssmbench.report.quality import score_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._panels import Panel
    from ssmbench.report._points import ByModel, Facts
    from ssmbench.report._results import Results
    from ssmbench.report._scores import Key, Score

TITLE = "Context"
ORDER = 74

_TITLE = "Perplexity against context"
_TASK = re.compile(r"context_(\d+)")


def build(results: Results) -> list[Figure]:
    """Build one figure for each suite that scores one text after several lengths of context.

    Args:
        results: the run's.
    """
    found = [(p, _lengths(p)) for p in results.panels if p.kind == "perplexity"]
    found = [(panel, lengths) for panel, lengths in found if len(lengths) > 1]
    if not found:
        why = "No suite of this run scores a text after two lengths of context or more"
        reason = fill(results, why, toy="simba-toy", real="simba-long")
        return [Figure(_TITLE, "context", "", reason=reason)]
    several = len(found) > 1
    return [_figure(results, panel, lengths, several=several) for panel, lengths in found]


def _lengths(panel: Panel) -> dict[int, tuple[str, str]]:
    """Give the panel's columns by their tokens of context."""
    matches = [(_TASK.fullmatch(task), (task, metric)) for task, metric in panel.columns]
    return dict(sorted((int(m[1]), column) for m, column in matches if m))


def _figure(
    results: Results, panel: Panel, lengths: Mapping[int, tuple[str, str]], *, several: bool
) -> Figure:
    scored = {row for row, suite_id, *_ in results.scores if suite_id == panel.suite_id}
    groups = by_model(f for f in results.facts if f.row.index in scored)
    styles = looks([f.label for group in groups for f in group.rows])
    plots = [
        Plot(group.model, [_line(f, panel, lengths, results.scores, styles) for f in group.rows])
        for group in groups
    ]
    chart = Chart(
        plots,
        x="context, tokens",
        y="perplexity",
        x_scale="log",
        y_scale="log",
        x_ticks=list(lengths),
        x_text=number,
        dodge=True,
    )
    name = file_name("context", panel.suite, panel.suite_id if several else "")
    title = f"{_TITLE}: {panel.suite}"
    return Figure(
        title=title,
        name=name,
        caption=(
            "Perplexity of the same tokens after more and more of what stands before them, of"
            " which a token-dropping method drops some; 95 % intervals over texts. Series stand a"
            " little beside each other. Both axes are logarithmic; lower is better. As"
            " figure 4 of Simba (arXiv:2505.20698)."
        ),
        alt=_alt(groups, panel, lengths, results.scores),
        draw=chart.draw,
        data=data_table(name, title, _records(groups, panel, lengths, results.scores), keys=4),
        size=chart.size,
        warnings=warnings([panel], [f for group in groups for f in group.rows]),
    )


def _line(
    f: Facts,
    panel: Panel,
    lengths: Mapping[int, tuple[str, str]],
    scores: Mapping[Key, Score],
    styles: Mapping[str, Any],
) -> Line:
    found = {n: score_of(panel, f.row, scores, column) for n, column in lengths.items()}
    dots = [Dot(n, score.value, *interval(score, panel.kind)) for n, score in found.items()]
    return Line(f.label, styles[f.label], dots)


def _records(
    groups: Sequence[ByModel],
    panel: Panel,
    lengths: Mapping[int, tuple[str, str]],
    scores: Mapping[Key, Score],
) -> list[dict[str, Any]]:
    made = []
    for f in (f for group in groups for f in group.rows):
        for n, column in lengths.items():
            score = score_of(panel, f.row, scores, column)
            low, high = interval(score, panel.kind)
            change = score.difference.interval or (None, None)
            made.append(
                {"model": f.model, "method": f.name, "ratio": f.ratio, "context": n}
                | {"perplexity": score.value, "low": low, "high": high}
                | {"nats_to_dense": score.difference.value}
                | {"nats_to_dense_low": change[0], "nats_to_dense_high": change[1]}
                | {"reason": score.reason or score.difference.reason}
            )
    return made


def _alt(
    groups: Sequence[ByModel],
    panel: Panel,
    lengths: Mapping[int, tuple[str, str]],
    scores: Mapping[Key, Score],
) -> str:
    first, last = min(lengths), max(lengths)
    told = []
    for group in groups:
        parts = []
        for f in group.rows:
            ends = [score_of(panel, f.row, scores, lengths[n]).value for n in (first, last)]
            texts = ["no value" if v is None else significant(v) for v in ends]
            parts.append(f"{f.label} {texts[0]} and {texts[1]}")
        told.append(f"{group.model}: {', '.join(parts)}")
    return f"Perplexity after {first} and after {last} tokens. {'; '.join(told)}."
