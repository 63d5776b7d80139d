"""Line charts in small multiples: what most figures are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ssmbench.report import _axes, _ticks
from ssmbench.report import _style as s

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Canvas

Scale = Literal["plain", "whole", "percent", "log"]


class Dot(NamedTuple):
    """One point of a line.

    Attributes:
        x: where.
        y: what, or None, which leaves a gap.
        low: lower end of its interval, or None.
        high: upper end.
        raw: what the point is a summary of: seeds, repeats.
    """

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None
    raw: tuple[float, ...] = ()


class Line(NamedTuple):
    """One series of a panel; `joined` is whether its points are joined."""

    text: str
    style: s.Style
    dots: Sequence[Dot]
    joined: bool = True


class Level(NamedTuple):
    """A line across a panel: what it stands for, and where."""

    text: str
    style: s.Style
    value: float


@dataclass(frozen=True)
class Plot:
    """One panel.

    Attributes:
        title: above it.
        lines: its series.
        levels: lines across it.
        links: lines between two points.
        labels: texts beside points.
    """

    title: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    links: Sequence[tuple[tuple[float, float], tuple[float, float]]] = ()
    labels: Sequence[tuple[float, float, str]] = ()


@dataclass(frozen=True)
class Chart:
    """Panels that share their axes' meaning.

    Attributes:
        plots: the panels.
        x: the x axis's name and unit.
        y: the y axis's.
        columns: panels in a row.
        each: height of a panel in inches.
        x_scale: of the x axis.
        y_scale: of the y axis.
        x_ticks: where ticks are, if they are few and known.
        share: which axes all panels share: any of "x" and "y".
        extra: entries of the legend beside the series.
        x_text: how a tick of the x axis is written.
        y_text: how one of the y axis is.
        dodge: whether series stand a little beside each other, for their intervals to be seen.
    """

    plots: Sequence[Plot]
    x: str
    y: str
    columns: int = 3
    each: float = 2.0
    x_scale: Scale = "plain"
    y_scale: Scale = "plain"
    x_ticks: Sequence[float] = ()
    share: str = "y"
    extra: Sequence[_axes.Entry] = ()
    x_text: Callable[[float], str] | None = None
    y_text: Callable[[float], str] | None = None
    dodge: bool = False

    @property
    def entries(self) -> list[_axes.Entry]:
        """The legend: every series and every level once, in order."""
        made: dict[str, _axes.Entry] = {}
        for plot in self.plots:
            for line in plot.lines:
                made.setdefault(line.text, _axes.Entry(line.text, line.style, line=line.joined))
        for plot in self.plots:
            for level in plot.levels:
                made.setdefault(level.text, _axes.Entry(level.text, level.style))
        return [*made.values(), *self.extra]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches."""
        tall = _axes.height(len(self.plots), self.columns, self.each, self.entries, top=0.15)
        return s.WIDTH, tall

    def draw(self, canvas: Canvas) -> None:
        """Draw all panels and the legend under them."""
        axes = _axes.multiples(canvas, len(self.plots), self.columns, share=self.share)
        columns = _axes.balanced(len(self.plots), self.columns)
        for i, (ax, plot) in enumerate(zip(axes, self.plots, strict=True)):
            self._panel(ax, plot, columns, first=i % columns == 0)
        self._scale(axes)
        _axes.legend(canvas, self.entries)
        if any(plot.labels for plot in self.plots):
            from ssmbench.report._front import write_labels

            _axes.settle(canvas)
            for ax, plot in zip(axes, self.plots, strict=True):
                named = [(x, y) for x, y, _ in plot.labels]
                others = [(d.x, d.y) for line in plot.lines for d in line.dots if d.y is not None]
                texts = [*(text for *_, text in plot.labels), *[None] * len(others)]
                write_labels(ax, [*named, *others], texts)

    def _panel(self, ax: Axes, plot: Plot, columns: int, *, first: bool) -> None:
        title = _axes.wrapped(plot.title, columns)
        _axes.dress(ax, title=title, x=self.x, y=self.y if first else "")
        if "y" in self.share and not first:
            ax.tick_params(axis="y", labelleft=False)
        for level in plot.levels:
            _axes.reference(
                ax, level.value, dashes=level.style.linestyle, colour=level.style.colour
            )
        for (x0, y0), (x1, y1) in plot.links:
            ax.plot([x0, x1], [y0, y1], color=s.REFERENCE, linestyle=":", linewidth=1.0, zorder=2)
        for i, line in enumerate(plot.lines):
            self._line(ax, line, self._beside(i, len(plot.lines)))
        ax.margins(0.07, 0.08)

    def _beside(self, i: int, n: int) -> Callable[[float], float]:
        """Give where the i-th of n lines has what stands at x: beside the others' intervals."""
        if not self.dodge or n == 1:
            return lambda x: x
        xs = _along(self.plots, "x")
        low, high = min(xs), max(xs)
        part = min(0.1, 0.016 * (n - 1)) * (i / (n - 1) - 0.5)
        if self.x_scale == "log":
            factor = (high / low) ** part
            return lambda x: x * factor
        return lambda x: x + (high - low) * part

    def _line(self, ax: Axes, line: Line, at: Callable[[float], float]) -> None:
        raw = [(at(d.x), value) for d in line.dots for value in d.raw]
        if raw:
            ax.plot(
                [x for x, _ in raw],
                [y for _, y in raw],
                linestyle="none",
                marker="_",
                markersize=4,
                markeredgewidth=0.6,
                color=line.style.colour,
                alpha=0.6,
                zorder=2,
            )
        xs, ys = [at(d.x) for d in line.dots], [d.y for d in line.dots]
        spans = [(d.low, d.high) for d in line.dots]
        _axes.series(ax, xs, ys, line.style, spans=spans, line=line.joined)

    def _scale(self, axes: Sequence[Axes]) -> None:
        """Set the axes' scales: each panel's own, or the one that all share."""
        for i, ax in enumerate(axes):
            for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
                shared = name in self.share
                if shared and i:
                    continue
                plots = self.plots if shared else [self.plots[i]]
                scale = self.x_scale if name == "x" else self.y_scale
                text = self.x_text if name == "x" else self.y_text
                self._scale_one(axis, scale, _along(plots, name), text)
            if self.x_ticks:
                self._fix(ax)

    def _scale_one(self, axis: Axis, scale: Scale, values: Sequence[float], text: Any) -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        if scale == "percent":
            _ticks.percents(axis)
        elif scale == "log" and values:
            _ticks.plain_log(axis, values, text)
        else:
            axis.set_major_locator(MaxNLocator(5, integer=scale == "whole"))
            write = text or _ticks.number
            axis.set_major_formatter(FuncFormatter(lambda v, _: write(v)))

    def _fix(self, ax: Axes) -> None:
        from matplotlib.ticker import NullLocator

        write = self.x_text or _ticks.number
        ax.set_xticks(list(self.x_ticks), [write(v) for v in self.x_ticks])
        ax.xaxis.set_minor_locator(NullLocator())


def _along(plots: Sequence[Plot], axis: str) -> list[float]:
    if axis == "x":
        return [d.x for p in plots for line in p.lines for d in line.dots]
    dots = [d for p in plots for line in p.lines for d in line.dots]
    found = [v for d in dots for v in (d.y, d.low, d.high, *d.raw) if v is not None]
    return found + [level.value for p in plots for level in p.levels]


def looks(names: Sequence[str]) -> Mapping[str, s.Style]:
    """Give each name a look: "dense" its own, the others in order."""
    others = [name for name in dict.fromkeys(names) if name != "dense"]
    return {"dense": s.DENSE_STYLE} | {name: s.style(i) for i, name in enumerate(others)}
