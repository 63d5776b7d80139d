"""What every renderer does with a table's words: number its footnotes, find code in prose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssmbench.report._table import Table

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_CODE = re.compile(r"`([^`\n]+)`")
_INTERVAL = re.compile(r"(.*\S)( ±\S+| \[[^\[\]]+, [^\[\]]+\])")
# What a difference's mark says: sure after correcting for many, sure alone, noise.
_CERTAINTY = {"▼": "sure", "▲": "sure", "▽": "maybe", "△": "maybe", "≈": "noise"}


@dataclass(frozen=True)
class Texts:
    """A table's cells as text with footnote marks, and the footnotes in order.

    `numbers` has each cell's footnote, from 1, or None.
    """

    rows: list[list[str]]
    footnotes: list[str]
    numbers: list[list[int | None]]


class Parts(NamedTuple):
    """A cell's text taken apart: `▼25.0 ±17.7` is ▼, 25.0 and ±17.7."""

    mark: str
    value: str
    spread: str

    @property
    def certainty(self) -> str:
        """`sure`, `maybe` or `noise` where the mark says so, else ""."""
        return _CERTAINTY.get(self.mark, "")


def texts(table: Table) -> Texts:
    """Number the notes of a table's cells: the same note has one number."""
    numbers: dict[str, int] = {}
    marks = [
        [numbers.setdefault(c.note, len(numbers) + 1) if c.note else None for c in row]
        for row in table.rows
    ]
    rows = [
        [cell.text + (superscript(n) if n else "") for cell, n in zip(row, line, strict=True)]
        for row, line in zip(table.rows, marks, strict=True)
    ]
    return Texts(rows, list(numbers), marks)


def superscript(number: int) -> str:
    """Write a footnote's number as its mark."""
    return str(number).translate(_SUPERSCRIPT)


def parts(text: str) -> Parts:
    """Take a cell's text apart."""
    mark, text = (text[0], text[1:]) if text[:1] in _CERTAINTY and text else ("", text)
    found = _INTERVAL.fullmatch(text)
    return Parts(mark, *found.groups()) if found else Parts(mark, text, "")


def sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


def prose(text: str, escape: Callable[[str], str], code: Callable[[str], str]) -> str:
    """Escape a sentence, with what stands between backticks as code.

    Args:
        text: of a note, caption, reason or warning.
        escape: for words.
        code: for what stands between backticks, not escaped yet.
    """
    pieces = _CODE.split(text)
    return "".join(code(p) if i % 2 else escape(p) for i, p in enumerate(pieces))


def heading(title: str, group: str) -> str:
    """Give an item's title without its group's, which stands above it."""
    return title.removeprefix(f"{group}: ") or title
