"""What a report hands to a renderer: text for people beside plain numbers for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Plain = float | int | str | None

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        header: what stands above it.
        align: "left" for names, "right" for numbers.
        unit: shown with the header in text; "" if none.
        parts: names of the plain numbers of its cells, for CSV: fractions 0–1, seconds,
            bytes. Empty for a column that repeats another's.
        prefix: what stands before a part's name in CSV: `lambada` makes `lambada_value`.
        key: whether it says which row this is; repeated where a wide table is split.
        group: what stands above it and its neighbours of the same group; "" if nothing.
    """

    header: str
    align: Literal["left", "right"] = "right"
    unit: str = ""
    parts: tuple[str, ...] = ()
    prefix: str = ""
    key: bool = False
    group: str = ""

    @property
    def title(self) -> str:
        """Header and unit as one text."""
        return f"{self.header} [{self.unit}]" if self.unit else self.header

    @property
    def full_title(self) -> str:
        """The same with its group, for formats that show no group above several columns."""
        return f"{self.group} {self.title}" if self.group else self.title


@dataclass(frozen=True)
class Shown:
    """One cell of a table.

    Attributes:
        text: for people; `MISSING` if there is nothing to show.
        numbers: part name -> plain value; a part left out is missing.
        note: why it is missing, or what to know about it; becomes a footnote.
    """

    text: str
    numbers: Mapping[str, Plain] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class Table:
    """One table. `notes` are sentences under it, `warnings` stand with the title.

    Attributes:
        title: what it shows.
        name: of its file, without ending: letters, digits, `-` and `_`.
        columns: the first ones are keys.
        rows: one `Shown` for each column.
        sections: indices of rows that begin a new group.
        notes: sentences under the table, before the footnotes.
        warnings: what must not be overlooked, such as "not publishable: …".
        csv: whether it holds numbers that no other table has.
    """

    title: str
    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Shown, ...], ...]
    sections: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    csv: bool = True


def missing(reason: str) -> Shown:
    """Show a dash and say why."""
    return Shown(MISSING, note=reason)
