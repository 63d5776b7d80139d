"""Ticks: few, round, and written as people write numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ssmbench.report._format import significant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axis import Axis

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percents(axis: Axis) -> None:
    """Show fractions in %, without the sign: the axis has the unit."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}".replace("-", "−")))


def plain_log(
    axis: Axis, values: Sequence[float], text: Callable[[float], str] | None = None
) -> None:
    """Make an axis logarithmic, with few ticks and numbers as people write them.

    Args:
        axis: the x or y axis of a panel.
        values: what is drawn along it, ends of intervals included; above 0.
        text: how a tick is written; as a plain number, or as a power of ten, if None.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks = log_ticks(min(values), max(values))
    ax = axis.axes
    (ax.set_xscale if axis is ax.xaxis else ax.set_yscale)("log")
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    write = text or number
    axis.set_major_formatter(FuncFormatter(lambda v, _: write(v)))


def log_ticks(low: float, high: float) -> list[float]:
    """Choose two to seven ticks between two numbers above 0, round ones."""
    decades = math.log10(high / low) if high > low else 0.0
    if decades > 6:
        step = math.ceil(decades / 6)
        first = math.ceil(math.log10(low) / step) * step
        return [10.0**k for k in range(first, math.floor(math.log10(high)) + 1, step)]
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = _between(low, high, factors)
        if len(ticks) >= 3:
            return ticks
    return _even(low, high)


def _between(low: float, high: float, factors: Sequence[float]) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    made = [f * 10.0**k for k in range(first, last + 1) for f in factors]
    return [t for t in made if low * 0.98 <= t <= high * 1.02]


def _even(low: float, high: float) -> list[float]:
    """Choose round numbers at equal distances, where the range is less than a factor of two."""
    width = high - low if high > low else abs(low) * 0.2
    step = 10.0 ** math.floor(math.log10(width / 2))
    step *= next(f for f in (5, 2, 1) if f * step <= width / 2 or f == 1)
    first = math.ceil((low - step) / step)
    return [step * k for k in range(first, first + 8) if 0 < step * k <= high + step]


def number(value: float) -> str:
    """Write a tick: plainly, or as a power of ten where that is far from 1."""
    if value and not 1e-3 <= abs(value) < 1e6:
        power = math.floor(math.log10(abs(value)) + 1e-9)
        factor = value / 10.0**power
        head = "" if abs(factor - 1) < 1e-6 else f"{factor:g}·"
        return f"{head}10{str(power).translate(_SUPERSCRIPTS)}"
    return significant(value, 6).rstrip("0").rstrip(".") if value % 1 else f"{value:g}"
