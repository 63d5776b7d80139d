"""`--only 'model=zoo-*,ratio>=0.5'`: which cells of a grid are meant.

Terms joined by commas must all hold; `--only` given several times means any of them. A bare
word of hex digits is the start of a cell's id.
"""

from __future__ import annotations

import operator
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from ssmbench.errors import CommandError, suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

TEXT = ("model", "method", "suite", "fine_tune", "family", "id")
NUMBERS = ("ratio", "seed")
FIELDS = (*TEXT, *NUMBERS)

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_TERM = re.compile(r"\s*([^\s!=<>]*)\s*(!=|>=|<=|==|=|>|<)\s*(.*?)\s*\Z")
_ID = re.compile(r"[0-9a-f]{3,12}\Z")

Value = str | float | None


class Term(NamedTuple):
    """One comparison. `value` is a glob for text, a number for numbers."""

    field: str
    sign: str
    value: str | float

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether the comparison is true; what a cell lacks (None) equals nothing."""
        found = values[self.field]
        if isinstance(self.value, str):
            match = fnmatchcase("" if found is None else str(found), self.value)
            return match if self.sign == "=" else not match
        return isinstance(found, int | float) and _COMPARE[self.sign](found, self.value)

    def __str__(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:g}"
        return f"{self.field}{self.sign}{value}"


class Filter(NamedTuple):
    """Terms that must all hold, one group for each `--only`; any group will do."""

    groups: tuple[tuple[Term, ...], ...]

    def matches(self, values: Mapping[str, Value]) -> bool:
        """Whether a (cell, suite) with these values of `FIELDS` is meant; no group means all."""
        return not self.groups or any(all(t.holds(values) for t in g) for g in self.groups)


def parse_filter(texts: Iterable[str]) -> Filter:
    """Read the values of `--only`.

    Raises:
        CommandError: a term that is not FIELD OPERATOR VALUE, an unknown field, or a comparison
            that its field does not have.
    """
    return Filter(tuple(_group(text) for text in texts))


def _group(text: str) -> tuple[Term, ...]:
    return tuple(_term(part, text) for part in text.split(","))


def _term(part: str, whole: str) -> Term:
    where = f"--only '{whole}'"
    bare = part.strip()
    if _ID.match(bare):
        return Term("id", "=", f"{bare}*")
    found = _TERM.match(part)
    if not found:
        expected = "expected FIELD=VALUE, as in 'model=zoo-*,ratio>=0.5', or the start of a cell id"
        raise CommandError(f"{where}: found '{bare}'; {expected}")
    name, sign, value = found.groups()
    sign = "=" if sign == "==" else sign
    if name not in FIELDS:
        raise CommandError(f"{where}: there is no field '{name}'.{suggest(name, FIELDS)}")
    if not value:
        raise CommandError(f"{where}: '{bare}' has no value; expected one, as in '{name}{sign}…'")
    if name in NUMBERS:
        return Term(name, sign, _number(where, name, value))
    if sign not in {"=", "!="}:
        raise CommandError(f"{where}: found '{bare}'; {name} is text: expected '=' or '!='")
    return Term(name, sign, f"{value}*" if name == "id" else value)


def _number(where: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        message = f"{where}: found '{value}'; {name} is a number: expected one"
        raise CommandError(message) from None
