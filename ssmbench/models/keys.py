"""How upstream names map to ours, as data: templates with `{}` for the layer's index."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from ssmbench.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{\}", r"(\d+)") + r"\Z")


def rename(name: str, table: Mapping[str, str]) -> str | None:
    """Give our name for an upstream one, or None where no template fits."""
    for upstream, ours in table.items():
        found = _pattern(upstream).match(name)
        if found:
            return ours.format(*found.groups())
    return None


def fits(name: str, templates: tuple[str, ...]) -> bool:
    """Say whether any template fits a name."""
    return any(_pattern(t).match(name) for t in templates)


def whole(value: float) -> float:
    """Give 2.0 as 2, as upstream writes it; leave 1.5 as it is."""
    return int(value) if value == int(value) else value


class Config:
    """A config.json, or an object in it, that says where it is when a value is not as expected.

    A value that is null counts as left out, as it does upstream.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(
                f"{where}: found {_kind(values)}; expected an object. "
                "Take the file as it was published."
            )
        self.values = values
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        """Read a value of any kind that may be left out."""
        value = self.values.get(key)
        return default if value is None else value

    def number(self, key: str, *, default: int | None = None, least: int = 1) -> int:
        """Read a whole number of at least `least`; it must be there where `default` is None."""
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self._refuse(key, f"a whole number above {least - 1}")
        return int(value)

    def real(self, key: str, *, default: float | None = None) -> float:
        """Read a finite number above 0; it must be there where `default` is None."""
        value = self.get(key, default)
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if not numeric or not 0 < value < math.inf:
            self._refuse(key, "a number above 0")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Read true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self._refuse(key, "true or false")
        return bool(value)

    def bounds(self, key: str) -> tuple[float, float]:
        """Read a pair of bounds, [0, ∞) where left out.

        transformers writes infinity as {"__float__": "Infinity"}.
        """
        value = self.get(key, [0.0, math.inf])
        try:
            low, high = (float(v["__float__"]) if isinstance(v, dict) else float(v) for v in value)
        except (TypeError, ValueError, KeyError):
            self._refuse(key, "a pair of numbers")
        return low, high

    def section(self, key: str, *, required: bool = False) -> Config:
        """Read an object inside this one; an empty one where it may be left out and is."""
        if required and self.get(key) is None:
            self._refuse(key, "an object")
        return Config(self.get(key, {}), f"{self.where}: {key}")

    def only(self, expected: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuse values that change the arithmetic in a way this family does not implement."""
        for key, allowed in expected.items():
            found = self.get(key)
            if found is not None and found not in allowed:
                raise CheckpointError(
                    f"{self.where}: {key}: found {found!r}; "
                    f"this family is implemented for {' or '.join(map(repr, allowed))} only."
                )

    def agrees(self, key: str, expected: Any, why: str) -> None:
        """Refuse a value that contradicts what follows from the others."""
        found = self.get(key, expected)
        if found != expected:
            raise CheckpointError(
                f"{self.where}: {key}: found {found!r}; expected {expected} ({why})."
            )

    def _refuse(self, key: str, expected: str) -> NoReturn:
        found = "nothing" if key not in self.values else repr(self.values[key])
        raise CheckpointError(f"{self.where}: {key}: found {found}; expected {expected}.")


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def multiple(value: float, part: int, where: str, words: str) -> int:
    """Divide exactly.

    Raises:
        CheckpointError: `value` is no multiple of `part`.
    """
    if value % part:
        raise CheckpointError(f"{where}: {words}: found {value:g}; expected a multiple of {part}.")
    return int(value) // part


def expansion(d_inner: int, d_model: int) -> float:
    """Give the number `expand` for which int(expand · d_model), as upstream has it, is d_inner."""
    ratio = d_inner / d_model
    return whole(ratio if int(ratio * d_model) == d_inner else math.nextafter(ratio, math.inf))
