"""The Pareto front, and labels beside its points that cover neither each other nor a point."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ssmbench.report import _style as s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

_RADIUS = 3.0  # of a marker, in points
_RINGS = (6, 11, 17, 24, 32, 42, 54, 68, 84)
_DIRECTIONS = 16
_NEAR = 9  # points; a label further away has a line to its point


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Say which of (gain, cost) no other beats: as much gain for less cost, or more for as much.

    Points that are equal in both do not beat each other.

    Args:
        points: finite numbers; more gain is better, less cost is better.
    """
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], points[i][1]))
    kept = [False] * len(points)
    least, gain_of_least = math.inf, math.nan
    for i in order:
        gain, cost = points[i]
        # With gains falling, a point is beaten unless it costs less than all that gain more; at
        # the same gain and cost it is that point's equal.
        if cost < least or (cost == least and gain == gain_of_least):
            kept[i] = True
            least, gain_of_least = cost, gain
    return kept


class Box(NamedTuple):
    """A rectangle, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether the two share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.bottom <= other.bottom
            and other.top <= self.top
        )


def place(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str | None],
    room: Box,
    taken: Sequence[Box] = (),
) -> list[tuple[float, float] | None]:
    """Choose where labels go: the middle of each, in points, or None where there is no room.

    The nearest free place around a point, from the right anticlockwise, is taken; the first
    labels choose first.

    Args:
        points: all markers, in points.
        labels: their texts, None for those without.
        room: which no label leaves.
        taken: which no label covers.
    """
    blocked = [*taken, *(_around(x, y, 2 * _RADIUS, 2 * _RADIUS) for x, y in points)]
    found: list[tuple[float, float] | None] = []
    for (x, y), label in zip(points, labels, strict=True):
        middle = None if label is None else _nearest(x, y, label, room, blocked)
        found.append(middle)
        if middle is not None:
            blocked.append(_box(*middle, str(label)))
    return found


def _nearest(
    x: float, y: float, label: str, room: Box, blocked: Sequence[Box]
) -> tuple[float, float] | None:
    width, height = _size(label)
    for ring in _RINGS:
        for k in range(_DIRECTIONS):
            angle = 2 * math.pi * k / _DIRECTIONS
            cos, sin = math.cos(angle), math.sin(angle)
            # The label's own edge, not its middle, is this far from the point.
            at = (x + ring * cos + cos * width / 2, y + ring * sin + sin * height / 2)
            box = _box(*at, label)
            if room.holds(box) and not any(box.meets(other) for other in blocked):
                return at
    return None


def _size(label: str) -> tuple[float, float]:
    # Two labels side by side are to look like two.
    return 72 * s.text_width(label) + 3, s.SMALL * 1.15


def _box(x: float, y: float, label: str) -> Box:
    return _around(x, y, *_size(label))


def _along(a: Sequence[float], b: Sequence[float]) -> Box:
    """Give the box of a thin line that is upright or level."""
    return Box(min(a[0], b[0]) - 1, min(a[1], b[1]) - 1, max(a[0], b[0]) + 1, max(a[1], b[1]) + 1)


def _around(x: float, y: float, width: float, height: float) -> Box:
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def write_labels(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str | None],
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
) -> None:
    """Write labels beside points of a panel; its layout must be final.

    Args:
        ax: the panel.
        points: all that are drawn, in data coordinates.
        labels: their texts, None for those without.
        lines: which labels do not cover, each from one point to another, upright or level.
    """
    figure = ax.get_figure()
    assert figure is not None
    to_points = 72 / figure.dpi
    spots = [tuple(ax.transData.transform(p) * to_points) for p in points]
    edge = ax.get_window_extent()
    room = Box(*(v * to_points for v in (edge.x0, edge.y0, edge.x1, edge.y1)))
    ends = [[(ax.transData.transform(p) * to_points).tolist() for p in line] for line in lines]
    taken = [_along(start, end) for start, end in ends]
    middles = place(spots, labels, room, taken)
    for point, spot, label, at in zip(points, spots, labels, middles, strict=True):
        if at is None:
            continue
        x, y = at[0] - spot[0], at[1] - spot[1]
        width, height = _size(str(label))
        far = math.hypot(max(0, abs(x) - width / 2), max(0, abs(y) - height / 2)) > _NEAR
        ax.annotate(
            str(label),
            point,
            xytext=(x, y),
            textcoords="offset points",
            fontsize=s.SMALL,
            ha="center",
            va="center",
            zorder=6,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": s.REFERENCE, "shrinkB": 3}
            if far
            else None,
        )
