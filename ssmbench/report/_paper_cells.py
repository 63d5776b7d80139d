"""Ours, what was published, and the difference: three lines of a paper's table."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ssmbench.report._format import fixed
from ssmbench.report._scores import Z95
from ssmbench.report._table import Column, Shown, missing
from ssmbench.report.published.audit import notes
from ssmbench.report.quality import MARKS, seeds_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.report._rows import Row
    from ssmbench.report._scores import Score
    from ssmbench.report.published import Number

PARTS = ("value", "stderr", "diff", "low", "high")
WHOSE = Column("", "left", parts=("whose",), key=True)
BLANK = Shown("")
_ERROR_DIGITS = 3
_OURS, _PUBLISHED, _DIFFERENCE = "ours", "published", "difference"

COMPARED = (
    "Ours ± standard error over documents, with as many digits as the paper prints; marks are of"
    f" the paired difference to dense, as in the tables of quality. {MARKS}",
    "Difference: ours − published, from all digits of ours. ≈: no more than 1.96 standard errors of"
    " ours and half of the last digit that is printed.",
)


class Cell(NamedTuple):
    """One place of a table.

    Attributes:
        ours: the run's, or why it is missing; BLANK where nobody asks for it.
        number: the paper's, or None.
        difference: between both; BLANK where there are not both.
    """

    ours: Shown
    number: Number | None = None
    difference: Shown = BLANK


def score_cell(
    score: Score, row: Row | None, number: Number | None, *, digits: int, note: str | None = None
) -> Cell:
    """Set a score beside a published one.

    Args:
        score: the run's; one without a value says why.
        row: that it is of.
        number: the paper's, or None.
        digits: decimals of ours.
        note: what else to know about ours.
    """
    if score.value is None or row is None:
        return Cell(missing(score.reason or "not run"), number)
    numbers = {"value": score.value, "stderr": score.stderr} | score.difference.numbers
    text = score.difference.mark + f"{score.value:.{digits}f}"
    if score.stderr is not None:
        text += f" ±{score.stderr:.{_ERROR_DIGITS}f}"
    told = [n for n in (seeds_missing(score, row), note) if n]
    ours = Shown(text, numbers, "; ".join(told) or None)
    return Cell(ours, number, BLANK if number is None else _difference(score, number))


def compression_cell(fraction: float | None, number: Number | None, *, why: str) -> Cell:
    """Set Comp., the part of the mixers that is gone, beside the published one.

    Args:
        fraction: ours, exact; None if there is none.
        number: the paper's, or None.
        why: there is none of ours.
    """
    if fraction is None:
        return Cell(missing(why), number)
    ours = Shown(f"{100 * fraction:.3g}", {"value": fraction})
    if number is None:
        return Cell(ours)
    change = 100 * (fraction - number.value)
    return Cell(ours, number, Shown(fixed(change, 1, sign=True), {"value": change / 100}))


class Body:
    """The lines of a table, made row by row.

    Attributes:
        rows: so far.
        sections: where a model begins.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[Shown, ...]] = []
        self.sections: set[int] = set()

    def begin(self) -> None:
        """Begin a section with the next line."""
        self.sections.add(len(self.rows))

    def add(self, keys: Sequence[Shown], cells: Sequence[Cell]) -> None:
        """Add a row of the paper: ours, and the other lines where there is anything to show.

        What is known against every published number of a line stands at its beginning.
        """
        self.rows.append((*keys, _whose(_OURS), *(c.ours for c in cells)))
        told = [notes().get(c.number, ()) for c in cells if c.number is not None]
        if told:
            first, *others = told
            shared = [note for note in first if others and all(note in o for o in others)]
            published = (_published(c.number, but=shared) for c in cells)
            self.rows.append((*keys, _whose(_PUBLISHED, " ".join(shared) or None), *published))
        changes = [c.difference for c in cells]
        if any(shown is not BLANK for shown in changes):
            self.rows.append((*keys, _whose(_DIFFERENCE), *changes))


def _whose(text: str, note: str | None = None) -> Shown:
    return Shown(text, {"whose": text}, note)


def _published(number: Number | None, *, but: Sequence[str]) -> Shown:
    if number is None:
        return BLANK
    told = [note for note in notes().get(number, ()) if note not in but]
    return Shown(number.text, {"value": number.value}, " ".join(told) or None)


def _difference(score: Score, number: Number) -> Shown:
    """Show ours − published; as noise where ours cannot tell it from what was rounded."""
    assert score.value is not None
    change = score.value - number.value
    text = fixed(change, number.digits, sign=True)
    noise = Z95 * (score.stderr or 0.0) + 0.5 * 10**-number.digits
    return Shown(f"≈{text}" if abs(change) <= noise else text, {"value": change})
