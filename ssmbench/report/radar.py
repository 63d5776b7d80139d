"""Radar plots: every task's score at once, one plot for each model and method."""

from __future__ import annotations

import math
import string
from functools import partial
from typing import TYPE_CHECKING, Any

from ssmbench.report import _axes
from ssmbench.report import _style as s
from ssmbench.report._figure import Figure
from ssmbench.report._format import percent
from ssmbench.report._points import (
    by_model,
    data_table,
    file_name,
    fill,
    interval,
    means,
    warnings,
)
from ssmbench.report.quality import score_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from ssmbench.report._panels import Panel
    from ssmbench.report._points import ByModel, Facts
    from ssmbench.report._results import Results
    from ssmbench.report._scores import Key, Score

TITLE = "Radar plots"
ORDER = 70

_COLUMNS = 4
_EACH = 1.85  # inches
_ROOM = 1.25  # of the outermost ring's radius, for the spokes' names
_LEAST = 3  # tasks: fewer make no polygon
_SOURCE = '"On Pruning State-Space LLMs" (arXiv:2502.18886), figure 3 and those after it'


def build(results: Results) -> list[Figure]:
    """Build one figure for each model and each suite with three tasks or more.

    Args:
        results: the run's.
    """
    facts = results.facts
    panels = [p for p in results.panels if p.kind == "fraction" and len(_tasks(p)) >= _LEAST]
    made = [_figure(group, panel, results, panels) for panel in panels for group in by_model(facts)]
    found = [figure for figure in made if figure is not None]
    if found:
        return found
    why = f"No model has a compressed row with accuracies of {_LEAST} tasks or more"
    reason = fill(results, why, toy="quickstart", real="full")
    return [Figure("Accuracy task by task", "radar", "", reason=reason)]


def _tasks(panel: Panel) -> list[tuple[str, str]]:
    return [c for c in panel.columns if c[0] in panel.averaged]


def _figure(
    group: ByModel, panel: Panel, results: Results, panels: Sequence[Panel]
) -> Figure | None:
    scored = {row for row, suite_id, *_ in results.scores if suite_id == panel.suite_id}
    rows = [f for f in group.rows if f.row.index in scored]
    compressed = [f for f in rows if not f.row.is_dense]
    if not compressed:
        return None
    dense = next((f for f in rows if f.is_plain_dense), None)
    several = len({p.suite_id for p in panels if p.suite == panel.suite}) > 1
    tail = panel.suite_id if several else ""
    name = file_name("radar", group.model, panel.suite, panel.metric, tail)
    title = f"Accuracy task by task: {group.model}, {panel.suite}"
    plots = _plots(compressed)
    entries = _entries(panel, compressed, has_dense=dense is not None)
    draw = partial(
        _draw, plots=plots, dense=dense, panel=panel, scores=results.scores, entries=entries
    )
    return Figure(
        title=title,
        name=name,
        caption=(
            "One plot for each method; each spoke is a task, from 0 % in the middle to 100 % at"
            " the outermost ring (rings 25 points apart), with 95 % intervals, of which none is"
            " drawn beyond the middle. Black: the dense model; dotted: chance. A gap is a task"
            f" without a score. Layout of {_SOURCE}."
        ),
        alt=_alt(group.model, panel, results, rows),
        draw=draw,
        data=data_table(name, title, _records(panel, rows, results.scores), keys=4),
        size=(s.WIDTH, _axes.height(len(plots), _COLUMNS, _EACH, entries, top=0.1)),
        warnings=warnings([panel], group.rows),
    )


def _plots(compressed: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Give the rows of each plot: those of one method with its parameters, trained or not."""
    plots: dict[str, list[Facts]] = {}
    for f in compressed:
        plots.setdefault(f.variant, []).append(f)
    return plots


def _looks(compressed: Sequence[Facts]) -> dict[str, s.Style]:
    kinds = sorted({(f.ratio, f.row.fine_tune != "none", f.setting) for f in compressed})
    return {kind: s.style(i) for i, (*_, kind) in enumerate(kinds)}


def _entries(panel: Panel, compressed: Sequence[Facts], *, has_dense: bool) -> list[_axes.Entry]:
    entries = [_axes.Entry("dense", s.DENSE_STYLE)] if has_dense else []
    entries += [_axes.Entry(kind, look) for kind, look in _looks(compressed).items()]
    if panel.chance:
        entries.append(_axes.Entry("chance", s.Style(s.REFERENCE, "", (1.0, 1.6))))
    tasks = [task for task, _ in _tasks(panel)]
    return entries + [
        _axes.Entry(task, sign=sign) for sign, task in zip(_signs(), tasks, strict=False)
    ]


def _signs() -> list[str]:
    """Name the spokes: A to Z, and then AA to ZZ."""
    letters = string.ascii_uppercase
    return [*letters, *(a + b for a in letters for b in letters)]


def _draw(
    canvas: Canvas,
    *,
    plots: Mapping[str, Sequence[Facts]],
    dense: Facts | None,
    panel: Panel,
    scores: Mapping[Key, Score],
    entries: Sequence[_axes.Entry],
) -> None:
    axes = _axes.multiples(canvas, len(plots), _COLUMNS)
    columns = _axes.balanced(len(plots), _COLUMNS)
    looks = _looks([f for rows in plots.values() for f in rows])
    for ax, (method, rows) in zip(axes, plots.items(), strict=True):
        _dress(ax, _axes.wrapped(method, columns), panel)
        if panel.chance:
            values = [panel.chance.get(task) for task, _ in _tasks(panel)]
            _ring(ax, values, s.Style(s.REFERENCE, "", (1.0, 1.6)), [])
        if dense is not None:
            _row(ax, dense, panel, scores, s.DENSE_STYLE, 0)
        for i, f in enumerate(rows, start=1):
            _row(ax, f, panel, scores, looks[f.setting], i)
    _axes.legend(canvas, entries)


def _dress(ax: Axes, title: str, panel: Panel) -> None:
    """Draw rings and spokes on a plain panel: matplotlib's polar ones take five times as long."""
    n = len(_tasks(panel))
    ax.set_title(title, fontsize=s.TITLE_SIZE, pad=3)
    ax.set_axis_off()
    ax.set_aspect("equal")
    ax.set_xlim(-_ROOM, _ROOM)
    ax.set_ylim(-_ROOM, _ROOM)
    spokes = [((0.0, 0.0), _at(k / n, 1.0)) for k in range(n)]
    rings = [
        (_at(k / 90, r), _at((k + 1) / 90, r)) for r in (0.25, 0.5, 0.75, 1.0) for k in range(90)
    ]
    _axes.strokes(ax, [*spokes, *rings], s.GRID, width=0.6)
    for k, sign in zip(range(n), _signs(), strict=False):
        x, y = _at(k / n, 1.15)
        ax.text(x, y, sign, fontsize=s.SMALL, ha="center", va="center")


def _at(turn: float, radius: float) -> tuple[float, float]:
    """Give the point at a part of a full turn, clockwise from the top."""
    angle = 2 * math.pi * turn
    return radius * math.sin(angle), radius * math.cos(angle)


def _row(
    ax: Axes,
    f: Facts,
    panel: Panel,
    scores: Mapping[Key, Score],
    look: s.Style,
    place: int,
) -> None:
    found = [score_of(panel, f.row, scores, column) for column in _tasks(panel)]
    spans = [interval(score) for score in found]
    _ring(ax, [score.value for score in found], look, spans, shift=0.006 * place)


def _ring(
    ax: Axes,
    values: Sequence[float | None],
    look: s.Style,
    spans: Sequence[tuple[float | None, float | None]],
    *,
    shift: float = 0.0,
) -> None:
    """Draw a closed line around the spokes; intervals are turned a little, not to cover others."""
    n = len(values)
    points = [_at(k / n, math.nan if v is None else v) for k, v in enumerate(values)]
    xs, ys = zip(*points, points[0], strict=True)
    ax.plot(
        xs,
        ys,
        color=look.colour,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=2.6,
        markerfacecolor=look.face,
        linewidth=1.0,
        zorder=3,
    )
    known = [(k / n + shift, *span) for k, span in enumerate(spans) if None not in span]
    intervals = [(_at(at, max(low or 0.0, 0.0)), _at(at, high or 0.0)) for at, low, high in known]
    _axes.strokes(ax, intervals, look.colour, width=0.7)


def _records(
    panel: Panel, rows: Sequence[Facts], scores: Mapping[Key, Score]
) -> list[dict[str, Any]]:
    made = []
    for f in rows:
        for column in _tasks(panel):
            score = score_of(panel, f.row, scores, column)
            low, high = interval(score)
            made.append(
                {"model": f.model, "method": f.name, "ratio": f.ratio, "task": column[0]}
                | {"value": score.value, "low": low, "high": high}
                | {"chance": panel.chance.get(column[0]), "best": panel.best.get(column[0])}
                | {"reason": score.reason or "not known"}
            )
    return made


def _alt(model: str, panel: Panel, results: Results, rows: Sequence[Facts]) -> str:
    """Say which method keeps most at each ratio, by the mean over the tasks."""
    found = means(results, panel, rows)
    told = [
        f"dense {percent(found[f.row.index].value or 0)} %"
        for f in rows
        if f.is_plain_dense and f.row.index in found
    ]
    for ratio in sorted({f.ratio for f in rows if not f.row.is_dense}):
        same = [f for f in rows if f.ratio == ratio and f.row.index in found and not f.row.is_dense]
        order = sorted(same, key=lambda f: -(found[f.row.index].value or 0))
        if order:
            ends = [f"{f.name} {percent(found[f.row.index].value or 0)} %" for f in order]
            least = f", {ends[-1]} least" if len(ends) > 1 else ""
            told.append(f"at ratio {ratio:.3g}, {ends[0]} keeps most{least}")
    return f"{model}, mean over {len(_tasks(panel))} tasks of {panel.suite}: {'; '.join(told)}."
