"""How upstream names map to ours, as data: templates with `{}` for the layer's index."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

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
    """A config.json that says where it is when a key is missing or has an unsupported value."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        """Read a key that may be missing."""
        return self.values.get(key, default)

    def number(self, key: str) -> int:
        """Read a key that must be a positive whole number."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            found = "nothing" if key not in self.values else repr(value)
            raise CheckpointError(
                f"{self.where}: {key}: found {found}; expected a whole number above 0."
            )
        return value

    def only(self, expected: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuse values that change the arithmetic in a way this family does not implement."""
        for key, allowed in expected.items():
            if key in self.values and self.values[key] not in allowed:
                raise CheckpointError(
                    f"{self.where}: {key}: found {self.values[key]!r}; "
                    f"this family is implemented for {' or '.join(map(repr, allowed))} only."
                )
