"""Numbers as people read them. The only place, with the console, where "%" exists."""

from __future__ import annotations

import math

MINUS = "−"


def fixed(value: float, digits: int, *, sign: bool = False) -> str:
    """Give `value` with that many decimals and a true minus sign; no negative zero."""
    text = f"{abs(value):.{digits}f}"
    zero = not text.strip("0.")
    if value < 0 and not zero:
        return MINUS + text
    return f"+{text}" if sign and not zero else text


def percent(fraction: float, digits: int = 1) -> str:
    """Give a fraction as a bare percentage: the unit stands in the header."""
    return fixed(100 * fraction, digits)


def significant(value: float, digits: int = 3) -> str:
    """Give `value` with that many significant digits, without an exponent below 10⁶."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.3g}" if abs(value) >= 1e6 else fixed(value, max(0, places))


def seconds(value: float) -> str:
    """Give a duration with its unit: `12.3 ms`."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{significant(value / 1e-9)} ns"


def size(value: float) -> str:
    """Give bytes with a binary unit: `8.0 KiB`."""
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} B"


def count(value: float) -> str:
    """Give a count with a decimal unit: `1.34 M`."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{value:.0f}"
