"""Pareto: which compressed models nothing beats in both quality and cost."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.report import _axes, _ticks
from ssmbench.report import _style as s
from ssmbench.report._costs import Cost, all_costs
from ssmbench.report._figure import Figure
from ssmbench.report._format import fixed, percent
from ssmbench.report._front import front, write_labels
from ssmbench.report._points import (
    by_model,
    data_table,
    file_name,
    fill,
    interval,
    means,
    warnings,
)
from ssmbench.report._rows import UNTRAINED
from ssmbench.report._timed import all_timed, disturbed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from ssmbench.report._panels import Panel
    from ssmbench.report._points import ByModel, Facts
    from ssmbench.report._results import Results
    from ssmbench.report._scores import Score

TITLE = "Pareto front"
ORDER = 30

_COLUMNS = 2
_EACH = 2.35  # inches


class Spot(NamedTuple):
    """One row in one panel."""

    facts: Facts
    quality: float
    quality_span: tuple[float | None, float | None]
    cost: float
    cost_span: tuple[float | None, float | None]
    on_front: bool


def build(results: Results) -> list[Figure]:
    """Build one figure for each model: quality against times, memory and FLOPs.

    Args:
        results: the run's.
    """
    facts = results.facts
    panel = next((p for p in results.panels if p.kind == "fraction"), None)
    if panel is None:
        why = "No suite of this run has an accuracy"
        return [_empty(fill(results, why, toy="quickstart", real="full"))]
    quality = means(results, panel, facts)
    costs = all_costs(results, facts)
    looks = {m: s.style(i) for i, m in enumerate(_methods(facts))}
    made = [_figure(group, panel, quality, costs, looks) for group in by_model(facts)]
    timed = all_timed(results)
    found = [
        replace(figure, warnings=(*figure.warnings, *disturbed(own)))
        for group, figure in zip(by_model(facts), made, strict=True)
        if figure is not None
        for own in ([t for t in timed if t.facts.model == group.model],)
    ]
    if found:
        return found
    why = f"No compressed model has both a score of {panel.suite} and a cost"
    return [_empty(fill(results, why, toy="quickstart", real="full"))]


def _empty(reason: str) -> Figure:
    return Figure("Quality against cost", "pareto", "", reason=reason)


def _methods(facts: Sequence[Facts]) -> list[str]:
    return [m for m in dict.fromkeys(f.method for f in facts) if m != "dense"]


def spots(rows: Sequence[Facts], quality: Mapping[int, Score], cost: Cost) -> list[Spot]:
    """Give the rows that have both numbers, and whether each is on the front."""
    known = [f for f in rows if f.row.index in quality and f.row.index in cost.of]
    pairs = [(quality[f.row.index].value, cost.of[f.row.index]) for f in known]
    kept = front([(float(q or 0.0), c[0]) for q, c in pairs])
    return [
        Spot(f, float(q or 0.0), interval(quality[f.row.index]), c[0], (c[1], c[2]), on)
        for f, (q, c), on in zip(known, pairs, kept, strict=True)
    ]


def _figure(
    group: ByModel,
    panel: Panel,
    quality: Mapping[int, Score],
    costs: Sequence[Cost],
    looks: Mapping[str, s.Style],
) -> Figure | None:
    found = [(cost, spots(group.rows, quality, cost)) for cost in costs]
    found = [(c, made) for c, made in found if any(not m.facts.row.is_dense for m in made)]
    if not found:
        return None
    entries = _entries(found, panel, looks)
    name = file_name("pareto", group.model)
    title = f"Quality against cost: {group.model}"
    draw = partial(_draw, found=found, panel=panel, looks=looks, entries=entries)
    return Figure(
        title=title,
        name=name,
        caption=(
            f"Right and down is better. Across: mean accuracy over the tasks of {panel.suite}, in"
            " %, with its 95 % interval. Up: cost as a multiple of the dense model's; of times the"
            " median with the 10th to 90th percentile of the repeats, the two models taking"
            " turns. Line and full marks: the front, models that no other beats in both, by their"
            " point values: what lies within intervals may be chance. Faint: models that another"
            " beats; hollow: trained after compression. Weights count as stored: zeros save"
            " nothing. Not in either paper."
        ),
        alt=_alt(group.model, found),
        draw=draw,
        data=data_table(name, title, _records(group.model, found)),
        size=(s.WIDTH, _axes.height(len(found), _COLUMNS, _EACH, entries, top=0.15)),
        warnings=warnings([panel], group.rows),
    )


def _entries(
    found: Sequence[tuple[Cost, Sequence[Spot]]], panel: Panel, looks: Mapping[str, s.Style]
) -> list[_axes.Entry]:
    used = {m.facts.method for _, made in found for m in made}
    entries = [_axes.Entry("dense", s.DENSE_STYLE, line=False)]
    entries += [_axes.Entry(m, look, line=False) for m, look in looks.items() if m in used]
    if _reference(panel, panel.chance) is not None:
        entries.append(_axes.Entry("chance", s.Style(s.REFERENCE, "", (1.0, 1.6))))
    return entries


def _reference(panel: Panel, known: Mapping[str, float]) -> float | None:
    told = [known[t] for t in panel.averaged if t in known]
    return sum(told) / len(told) if told and len(told) == len(panel.averaged) else None


def _draw(
    canvas: Canvas,
    *,
    found: Sequence[tuple[Cost, Sequence[Spot]]],
    panel: Panel,
    looks: Mapping[str, s.Style],
    entries: Sequence[_axes.Entry],
) -> None:
    axes = _axes.multiples(canvas, len(found), _COLUMNS, share="x")
    chance = _reference(panel, panel.chance)
    for ax, (cost, made) in zip(axes, found, strict=True):
        _axes.dress(
            ax,
            title=_axes.wrapped(cost.name, _COLUMNS),
            x=f"mean of {panel.suite}, %",
            y="of dense, ×",
        )
        if chance is not None:
            _axes.reference(ax, chance, axis="x")
        _axes.reference(ax, 1.0, dashes="-", colour=s.FAINT)
        xs, ys = zip(*_stairs(made), strict=True)
        ax.plot(xs, ys, color=s.REFERENCE, linewidth=0.8, zorder=1.5)
        alike: dict[tuple[bool, s.Style], list[Spot]] = {}
        for m in sorted(made, key=lambda m: m.on_front):
            alike.setdefault((m.on_front, _look(m, looks)), []).append(m)
        for (on_front, look), some in alike.items():
            _mark(ax, some, look, on_front=on_front)
        ax.margins(0.09, 0.14)
    _ticks.percents(axes[0].xaxis)
    _axes.legend(canvas, entries)
    _axes.settle(canvas)
    for ax, (_, made) in zip(axes, found, strict=True):
        # All on the front are told by name; dense is told by its mark.
        names = [m.facts.label if m.on_front and not m.facts.row.is_dense else None for m in made]
        left, right = ax.get_xlim()
        lines = [*_lines(made), ((left, 1.0), (right, 1.0))]
        write_labels(ax, [(m.quality, m.cost) for m in made], names, lines)


def _stairs(made: Sequence[Spot]) -> list[tuple[float, float]]:
    """Give the corners of the edge of what the front beats."""
    best = sorted({(m.quality, m.cost) for m in made if m.on_front})
    corners = best[:1]
    for (left, _), (right, cost) in pairwise(best):
        # To gain any more than one point does costs as much as the next.
        corners += [(left, cost), (right, cost)]
    return corners


def _lines(made: Sequence[Spot]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Give what labels are not to cover: the front's edge and the intervals of its points."""
    lines = list(pairwise(_stairs(made)))
    for m in made:
        if m.on_front:
            (low, high), (least, most) = m.quality_span, m.cost_span
            if low is not None and high is not None:
                lines.append(((low, m.cost), (high, m.cost)))
            if least is not None and most is not None:
                lines.append(((m.quality, least), (m.quality, most)))
    return lines


def _look(m: Spot, looks: Mapping[str, s.Style]) -> s.Style:
    """Give a row's look: its method's, hollow where it was trained."""
    look = s.DENSE_STYLE if m.facts.row.is_dense else looks[m.facts.method]
    return replace(look, filled=m.facts.row.fine_tune == UNTRAINED)


def _mark(ax: Axes, made: Sequence[Spot], look: s.Style, *, on_front: bool) -> None:
    alpha = 1.0 if on_front else 0.35
    xs, ys = [m.quality for m in made], [m.cost for m in made]
    spans = [m.cost_span for m in made]
    size = 5.0 if on_front else 4.0
    _axes.series(ax, xs, ys, look, spans=spans, line=False, alpha=alpha, size=size)
    level = [((m.quality_span[0], m.cost), (m.quality_span[1], m.cost)) for m in made]
    _axes.strokes(ax, level, look.colour, width=0.8, alpha=alpha)


def _records(model: str, found: Sequence[tuple[Cost, Sequence[Spot]]]) -> list[dict[str, Any]]:
    return [
        {
            "model": model,
            "method": m.facts.name,
            "ratio": m.facts.ratio,
            "cost": cost.name,
            "quality": m.quality,
            "quality_low": m.quality_span[0],
            "quality_high": m.quality_span[1],
            "of_dense": m.cost,
            "of_dense_low": m.cost_span[0],
            "of_dense_high": m.cost_span[1],
            "on_front": int(m.on_front),
            "reason": "one document, or one value: no interval",
        }
        for cost, made in found
        for m in made
    ]


def _alt(model: str, found: Sequence[tuple[Cost, Sequence[Spot]]]) -> str:
    parts = []
    for cost, made in found:
        best = sorted((m for m in made if m.on_front), key=lambda m: -m.quality)
        told = [f"{m.facts.label} ({percent(m.quality)} %, ×{fixed(m.cost, 2)})" for m in best]
        parts.append(f"{cost.name}: {len(best)} of {len(made)} on the front, {'; '.join(told)}.")
    return f"{model}. " + " ".join(parts)
