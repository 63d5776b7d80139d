"""Averages that contradict their own rows.

An average is said to contradict its rows where it differs from the mean of the tasks that the same
paper prints for the same cell by more than `TOLERANCE`. Rounding to two decimals explains less than
0.01 (half a digit of the tasks, half a digit of the average); half as much again is allowed, so
that what is named here is beyond doubt. Table 1 is set against Tables 4, 5, 7, 8 and 9, Table 2
against Table 6, and Table 3 against itself.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from ssmbench.report.published import Number, Place, defects, numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

TOLERANCE = 0.015


class Audited(NamedTuple):
    """One average beside its rows.

    Attributes:
        average: as published.
        rows: the tasks of the same cell.
        exact_mean: of their values as printed.
    """

    average: Number
    rows: tuple[Number, ...]
    exact_mean: Fraction

    @property
    def mean(self) -> float:
        """The mean of the rows."""
        return float(self.exact_mean)

    @property
    def difference(self) -> float:
        """The average less its rows' mean."""
        return float(Fraction(self.average.text) - self.exact_mean)

    @property
    def contradicts(self) -> bool:
        """Whether they differ by more than `TOLERANCE`."""
        return abs(Fraction(self.average.text) - self.exact_mean) > Fraction(str(TOLERANCE))

    @property
    def sentence(self) -> str:
        """Say which numbers contradict each other."""
        table, rows = (f"Table {n.table[1:]}" for n in (self.average, self.rows[0]))
        return f"{table} prints {self.average.text}, but its rows in {rows} have a mean of" + (
            f" {self.mean:.3f}"
        )


@cache
def audit() -> tuple[Audited, ...]:
    """Set every published average beside the tasks of its cell, in the tables' order."""
    tasks: dict[tuple[bool, Place], list[Number]] = {}
    for n in numbers():
        if n.what not in {"average", "compression"}:
            tasks.setdefault((n.table == "T3", n.place), []).append(n)
    made = []
    for n in numbers():
        if n.what == "average":
            rows = tuple(tasks[n.table == "T3", n.place])
            made.append(
                Audited(n, rows, sum((Fraction(r.text) for r in rows), Fraction()) / len(rows))
            )
    return tuple(made)


def contradictions() -> tuple[Audited, ...]:
    """Give those that differ by more than `TOLERANCE`."""
    return tuple(found for found in audit() if found.contradicts)


@cache
def notes() -> Mapping[Number, tuple[str, ...]]:
    """Give, for every number that something is known against, what that is, in sentences."""
    told: dict[Number, list[str]] = {}
    for found in contradictions():
        told.setdefault(found.average, []).append(f"{found.sentence}.")
    for n in numbers():
        for defect in defects():
            if defect.concerns(n):
                why = f"{defect.why[0].upper()}{defect.why[1:]} ({defect.said_by})."
                told.setdefault(n, []).append(why)
    return {n: tuple(texts) for n, texts in told.items()}
