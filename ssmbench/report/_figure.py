"""What a report hands over to be drawn: a function, the numbers it draws, and words beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure as Canvas

    from ssmbench.report._table import Table


@dataclass(frozen=True)
class Figure:
    """One figure, or the reason why it is not there.

    Attributes:
        title: what it shows.
        name: of its files, without ending: letters, digits, `-` and `_`.
        caption: what the axes and marks are, in sentences, source included.
        alt: what a reader who cannot see it should know.
        draw: draws onto an empty canvas of `size`; called when a format asks for it. None where
            there is nothing to draw.
        data: the numbers that are drawn, as a table of their own CSV; None without `draw`.
        size: width and height in inches.
        reason: why there is nothing to draw, and the command that would fill it; None with `draw`.
        warnings: what must not be overlooked, such as "not publishable: …".
    """

    title: str
    name: str
    caption: str
    alt: str = ""
    draw: Callable[[Canvas], None] | None = None
    data: Table | None = None
    size: tuple[float, float] = (7.0, 4.2)
    reason: str | None = None
    warnings: tuple[str, ...] = ()
