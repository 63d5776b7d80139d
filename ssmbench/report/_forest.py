"""Forest plots: a line for each row, its value and interval, beside the line of no effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ssmbench.report import _axes, _ticks
from ssmbench.report import _style as s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLUMNS = 3
_LINE = 0.17  # inches a row
_AROUND = 0.75  # inches of a panel's title and axis


class Mark(NamedTuple):
    """One row's value in one panel.

    Attributes:
        value: where the marker is.
        low: lower end of its interval, or None.
        high: upper end.
        style: of the marker.
        raw: what the value is a summary of.
    """

    value: float
    low: float | None
    high: float | None
    style: s.Style
    raw: tuple[float, ...] = ()


class Panel(NamedTuple):
    """One panel: its title, its axis's name and unit, where no effect is, marks by row."""

    title: str
    x: str
    none: float
    marks: Mapping[int, Mark]
    is_fraction: bool = False


@dataclass(frozen=True)
class Forest:
    """Panels that share their rows.

    Attributes:
        names: of the rows, from the top.
        panels: at least one.
        entries: of the legend.
    """

    names: Sequence[str]
    panels: Sequence[Panel]
    entries: Sequence[_axes.Entry] = ()

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        each = _AROUND + _LINE * len(self.names)
        return s.WIDTH, _axes.height(len(self.panels), COLUMNS, each, self.entries, top=0.1)

    def draw(self, canvas: Canvas) -> None:
        """Draw all panels, the rows' names left of the first of each line."""
        axes = _axes.multiples(canvas, len(self.panels), COLUMNS, share="y")
        columns = _axes.balanced(len(self.panels), COLUMNS)
        for i, (ax, panel) in enumerate(zip(axes, self.panels, strict=True)):
            # The rows' names stand beside the panels and leave them less room.
            _axes.dress(ax, title=_axes.wrapped(panel.title, columns + 1), x=panel.x)
            _axes.reference(ax, panel.none, axis="x", dashes="-")
            for at, mark in panel.marks.items():
                _draw_mark(ax, at, mark)
            if panel.is_fraction:
                _ticks.percents(ax.xaxis)
            ax.set_ylim(len(self.names) - 0.4, -0.6)
            ax.set_yticks(range(len(self.names)), self.names, fontsize=s.SMALL)
            if i % columns:
                ax.tick_params(axis="y", labelleft=False)
        _axes.legend(canvas, self.entries)


def _draw_mark(ax: Axes, at: int, mark: Mark) -> None:
    colour = mark.style.colour
    _axes.strokes(ax, [((mark.low, at), (mark.high, at))], colour, width=1.0)
    if mark.raw:
        ax.plot(
            mark.raw,
            [at] * len(mark.raw),
            linestyle="none",
            marker="|",
            markersize=5,
            markeredgewidth=0.6,
            color=colour,
            alpha=0.6,
            zorder=2,
        )
    _axes.series(ax, [mark.value], [at], mark.style, line=False)
