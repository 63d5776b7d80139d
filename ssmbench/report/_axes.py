"""Drawing: small multiples, legends beside the data, axes with plain numbers and units.

Every size is set on the object itself, so that nothing depends on matplotlib's global settings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.report import _style as s

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

LEGEND_LINE = 0.17  # inches


# From one point to another.
Stroke = tuple[tuple[float | None, float | None], tuple[float | None, float | None]]


class Entry(NamedTuple):
    """One entry of a legend: a series, or a sign and what it stands for."""

    text: str
    style: s.Style | None = None
    sign: str = ""
    line: bool = True


def balanced(n: int, columns: int) -> int:
    """Say how many panels stand in a row, at most `columns`, for rows as full as can be."""
    return math.ceil(n / math.ceil(n / columns))


def height(
    panels: int, columns: int, each: float, entries: Sequence[Entry], *, top: float
) -> float:
    """Give the height in inches of small multiples with a legend under them.

    Args:
        panels: how many.
        columns: of panels.
        each: height of a panel in inches, its title and labels included.
        entries: of the legend.
        top: what is added for the axes' names.
    """
    per_line = s.in_columns(_texts(entries)) if entries else 1
    lines = math.ceil(len(entries) / per_line)
    rows = math.ceil(panels / balanced(panels, columns))
    return rows * each + lines * LEGEND_LINE + top


def multiples(canvas: Canvas, n: int, columns: int, *, share: str = "") -> list[Axes]:
    """Put n panels on a canvas, `columns` in a row; texts make room for each other.

    Args:
        canvas: an empty one.
        n: panels.
        columns: in a row, at most.
        share: which axes all panels share: any of "x" and "y".
    """
    canvas.set_layout_engine("constrained", w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.03)
    columns = balanced(n, columns)
    rows = math.ceil(n / columns)
    made: list[Axes] = []
    for i in range(n):
        first = made[0] if made else None
        options: dict[str, Any] = {f"share{axis}": first for axis in share if first is not None}
        made.append(canvas.add_subplot(rows, columns, i + 1, **options))
    return made


def wrapped(title: str, columns: int) -> str:
    """Break a panel's title before its parameters where it is wider than its panel.

    Args:
        title: as `wanda 0.5 (targets=in_proj)`.
        columns: of panels on the canvas.
    """
    room = s.WIDTH / columns - 0.35
    parts = title.replace(" (", "\n(").replace(", ", ",\n").split("\n")
    lines = parts[:1]
    for part in parts[1:]:
        joined = f"{lines[-1]} {part}"
        if s.text_width(joined, s.TITLE_SIZE) <= room:
            lines[-1] = joined
        else:
            lines.append(part)
    return "\n".join(lines)


def dress(ax: Axes, *, title: str = "", x: str = "", y: str = "") -> None:
    """Give a panel its texts, a light grid, and no frame at the top and the right."""
    ax.set_title(title, fontsize=s.TITLE_SIZE, pad=4)
    ax.set_xlabel(x, fontsize=s.SMALL, labelpad=2)
    ax.set_ylabel(y, fontsize=s.SMALL, labelpad=2)
    ax.tick_params(which="both", labelsize=s.SMALL, length=2, width=0.6, pad=2)
    ax.grid(visible=True, color=s.GRID, linewidth=0.6)
    ax.set_axisbelow(True)
    for name in ("top", "right"):
        ax.spines[name].set_visible(False)
    for name in ("left", "bottom"):
        ax.spines[name].set_linewidth(0.6)


def legend(canvas: Canvas, entries: Sequence[Entry]) -> None:
    """Put a legend under all panels."""
    if not entries:
        return
    texts = _texts(entries)
    found = canvas.legend(
        [_handle(entry) for entry in entries],
        texts,
        loc="outside lower center",
        ncols=s.in_columns(texts),
        fontsize=s.SMALL,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.2,
        handletextpad=0.5,
        borderaxespad=0.2,
        labelspacing=0.25,
    )
    found.set_zorder(5)


def _texts(entries: Sequence[Entry]) -> list[str]:
    return [f"{e.sign}: {e.text}" if e.sign else e.text for e in entries]


def _handle(entry: Entry) -> Artist:
    from matplotlib.lines import Line2D

    look = entry.style
    if look is None:
        return Line2D([], [], linestyle="none")
    return Line2D(
        [],
        [],
        color=look.colour,
        linestyle=look.linestyle if entry.line else "none",
        marker=look.marker,
        markersize=4,
        markerfacecolor=look.face,
        linewidth=1.2,
    )


def series(
    ax: Axes,
    xs: Sequence[float],
    ys: Sequence[float | None],
    look: s.Style,
    *,
    spans: Sequence[tuple[float | None, float | None]] = (),
    line: bool = True,
    alpha: float = 1.0,
    size: float = 4.0,
) -> None:
    """Draw points with their intervals, joined; where there is no number there is a gap.

    Args:
        ax: the panel.
        xs: where; finite.
        ys: what, or None.
        look: of the series.
        spans: low and high end of each point's interval, or None.
        line: whether points are joined.
        alpha: how opaque, 0 to 1.
        size: of the markers in points.
    """
    known = [math.nan if y is None else y for y in ys]
    ax.plot(
        xs,
        known,
        color=look.colour,
        linestyle=look.linestyle if line else "none",
        marker=look.marker,
        markersize=size,
        markerfacecolor=look.face,
        markeredgecolor=look.colour,
        markeredgewidth=0.8,
        linewidth=1.1,
        alpha=alpha,
        zorder=3,
    )
    upright = [((x, low), (x, high)) for x, (low, high) in zip(xs, spans, strict=bool(spans))]
    strokes(ax, upright, look.colour, width=0.8, alpha=alpha)


def strokes(
    ax: Axes, lines: Iterable[Stroke], colour: str, *, width: float, alpha: float = 1.0
) -> None:
    """Draw separate straight lines, such as intervals; those without both ends are left out.

    Args:
        ax: the panel.
        lines: each from one point to another.
        colour: of all.
        width: of all, in points.
        alpha: how opaque, 0 to 1.
    """
    points: list[tuple[float, float]] = []
    for ends in lines:
        known = [(x, y) for x, y in ends if x is not None and y is not None]
        if len(known) == len(ends):
            points += [*known, (math.nan, math.nan)]
    if points:
        # One object for all of them: drawing takes as long as there are objects.
        xs, ys = zip(*points, strict=True)
        ax.plot(xs, ys, color=colour, linewidth=width, alpha=alpha, zorder=2)


def settle(canvas: Canvas) -> None:
    """Give all axes their final places, for texts that are placed by hand."""
    engine = canvas.get_layout_engine()
    assert engine is not None
    engine.execute(canvas)
    canvas.set_layout_engine("none")
    for ax in canvas.axes:
        # Asking for the limits brings them up to date.
        ax.get_xlim(), ax.get_ylim()


def reference(
    ax: Axes, value: float, *, axis: str = "y", dashes: Any = ":", colour: str = s.REFERENCE
) -> None:
    """Draw a thin line across the panel at a value: chance, best, dense."""
    draw = ax.axhline if axis == "y" else ax.axvline
    draw(value, color=colour, linestyle=dashes, linewidth=0.9, zorder=1)
