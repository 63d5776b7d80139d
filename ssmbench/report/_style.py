"""How series look in every figure: told apart by colour, and in grey by marker and dash."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, product
from typing import Literal

# Points at a width of 7 inches: nothing that is to be read is smaller.
SMALL = 7.0
TITLE_SIZE = 8.0
WIDTH = 7.0
# What a character of DejaVu Sans is wide on average, of its size.
CHARACTER = 0.58
_HANDLE = 0.47  # inches beside a legend's text: its sign and the gap to the next

# Okabe and Ito's colours, which people with any common colour blindness tell apart. Their yellow
# is left out: as a line on white paper it cannot be seen.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
INK = "#000000"
DENSE = "#000000"
FAINT = "#B0B0B0"
GRID = "#E4E4E4"
REFERENCE = "#555555"

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h", "d")
# On and off in line widths; solid is the empty one.
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (4.0, 1.5),
    (1.2, 1.2),
    (6.0, 1.5, 1.2, 1.5),
    (8.0, 2.5),
    (3.0, 1.2, 1.2, 1.2, 1.2, 1.2),
)


@dataclass(frozen=True)
class Style:
    """How one series looks.

    Attributes:
        colour: of line and marker.
        marker: its shape, as matplotlib names it.
        dashes: on and off, in line widths; empty for a solid line.
        filled: whether the marker is filled.
    """

    colour: str
    marker: str
    dashes: tuple[float, ...]
    filled: bool = True

    @property
    def linestyle(self) -> Literal["-"] | tuple[float, tuple[float, ...]]:
        """The dashes as matplotlib takes them."""
        return (0.0, self.dashes) if self.dashes else "-"

    @property
    def face(self) -> str:
        """The marker's inside."""
        return self.colour if self.filled else "#FFFFFF"


def _make() -> tuple[Style, ...]:
    pairs = islice(product((True, False), _MARKERS), 2 * len(_MARKERS))
    return tuple(
        Style(
            colour=COLOURS[i % len(COLOURS)],
            marker=marker,
            # Of two series with the same dashes, one is much lighter than the other.
            dashes=DASHES[(i + 3 * (i // len(COLOURS))) % len(DASHES)],
            filled=filled,
        )
        for i, (filled, marker) in enumerate(pairs)
    )


STYLES = _make()
DENSE_STYLE = Style(DENSE, "o", ())


def style(i: int) -> Style:
    """Give the look of the i-th series; beyond the last one they come again."""
    return STYLES[i % len(STYLES)]


def luminance(colour: str) -> float:
    """Give how light `#RRGGBB` is in grey, 0 to 1 (ITU-R BT.709, of linear light)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_width(text: str, size: float = SMALL) -> float:
    """Estimate how wide a text is, in inches."""
    return len(text) * CHARACTER * size / 72


def in_columns(texts: list[str], width: float = WIDTH) -> int:
    """Say how many columns a legend of these texts has at a width in inches; at least 1.

    A legend fills one column after the other, each as wide as its longest text.
    """
    for n in range(len(texts), 1, -1):
        lines, longer = divmod(len(texts), n)
        sizes = [lines + 1] * longer + [lines] * (n - longer)
        starts = [sum(sizes[:k]) for k in range(n)]
        columns = [texts[at : at + size] for at, size in zip(starts, sizes, strict=True)]
        if sum(max(map(text_width, column)) + _HANDLE for column in columns) <= width:
            return n
    return 1
