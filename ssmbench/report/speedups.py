"""Speedups: how much faster than the dense model, row by row, never without the quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench.report._figure import Figure
from ssmbench.report._forest import COLUMNS, Forest, Mark, Panel
from ssmbench.report._format import fixed
from ssmbench.report._lines import looks
from ssmbench.report._points import ByModel, by_model, data_table, file_name, fill, warnings
from ssmbench.report._timed import all_timed, bought, disturbed, records, told
from ssmbench.report.quality import mean_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.report._panels import Panel as Suite
    from ssmbench.report._results import Results
    from ssmbench.report._scores import Score
    from ssmbench.report._timed import Timed

TITLE = "Speedups"
ORDER = 81

_SPEED = "Speedup"
Shape = tuple[str, int, int]  # device and phase, batch, length


def build(results: Results) -> list[Figure]:
    """Build one figure for each model that was timed: a panel for each device, phase and shape.

    Args:
        results: the run's.
    """
    timed = all_timed(results)
    if not timed:
        reason = fill(results, "Suite latency was not run", toy="quickstart", real="full")
        return [Figure(_SPEED, "times-speedup", "", reason=reason)]
    panel, quality = mean_scores(results, results.rows)
    made = []
    for group in by_model(dict.fromkeys(t.facts for t in timed)):
        own = [t for t in timed if t.facts.model == group.model]
        for here in _figures(own):
            rows = list(dict.fromkeys(t.facts for t in here))
            made.append(_speedups(ByModel(group.model, rows), here, panel, quality))
    return made


def _figures(timed: Sequence[Timed]) -> list[list[Timed]]:
    """Put all shapes of a model into one figure where they fit, else those of one place."""
    if len({_shape(t) for t in timed}) <= COLUMNS:
        return [list(timed)]
    places = dict.fromkeys(t.place for t in timed)
    return [[t for t in timed if t.place == place] for place in places]


def _shape(t: Timed) -> Shape:
    return t.place, t.batch, t.length


def _speedups(
    group: ByModel, timed: Sequence[Timed], suite: Suite | None, quality: Mapping[int, Score]
) -> Figure:
    shapes = list(dict.fromkeys(map(_shape, timed)))
    place = timed[0].place if len({t.place for t in timed}) == 1 else ""
    forest = Forest(
        [told(f, quality) for f in group.rows],
        [_panel(shape, shapes, group, timed) for shape in shapes],
    )
    name = file_name("times-speedup", group.model, place)
    title = f"{_SPEED}: {group.model}" + (f", {place}" if place else "")
    return Figure(
        title=title,
        name=name,
        caption=(
            "The dense model's median time over the compressed one's, for each batch × length; the"
            " two take turns in one process. Whiskers: the 10th to 90th percentile of"
            " the compressed model's repeats; short strokes: turn by turn. Right of the line at 1"
            f" is faster than dense; the dense row shows how far 1 is exact. {bought(suite)}"
        ),
        alt=_speed_alt(group, timed, quality, shapes),
        draw=forest.draw,
        data=data_table(name, title, records(timed, quality), keys=3),
        size=forest.size,
        warnings=(*warnings([suite], group.rows), *disturbed(timed)),
    )


def _panel(shape: Shape, shapes: Sequence[Shape], group: ByModel, timed: Sequence[Timed]) -> Panel:
    looks_of = looks([f.method for f in group.rows])
    found = {t.facts.row.index: t for t in timed if _shape(t) == shape}
    marks = {}
    for at, f in enumerate(group.rows):
        t = found.get(f.row.index)
        if t is not None and t.numbers["speedup"] is not None:
            low, high = _span(t)
            marks[at] = Mark(t.numbers["speedup"], low, high, looks_of[f.method], t.ratios)
    return Panel(_name(shape, shapes), "speedup over dense, ×", 1.0, marks)


def _span(t: Timed) -> tuple[float | None, float | None]:
    """Give the speedups at the 90th and the 10th percentile of the row's times."""
    dense, slow, fast = (t.numbers[n] for n in ("dense_median_s", "p90_s", "p10_s"))
    if dense is None or not slow or not fast:
        return None, None
    return dense / slow, dense / fast


def _name(shape: Shape, shapes: Sequence[Shape]) -> str:
    """Name a panel: the device and phase too, unless all have the same."""
    place, batch, length = shape
    name = f"{batch}×{length}"
    return name if len({p for p, *_ in shapes}) == 1 else f"{place}, {name}"


def _speed_alt(
    group: ByModel,
    timed: Sequence[Timed],
    quality: Mapping[int, Score],
    shapes: Sequence[Shape],
) -> str:
    parts = []
    for shape in shapes:
        own = [t for t in timed if _shape(t) == shape and t.numbers["speedup"]]
        order = sorted(own, key=lambda t: -(t.numbers["speedup"] or 0.0))
        texts = [
            f"{told(t.facts, quality)} ×{fixed(t.numbers['speedup'] or 0.0, 2)}" for t in order[:3]
        ]
        parts.append(f"{_name(shape, [])}: fastest are {', '.join(texts)}")
    return f"{group.model}. {'; '.join(parts)}."
