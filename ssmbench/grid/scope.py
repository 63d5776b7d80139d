"""What the checks of a grid share: where they are, and the mistakes that all parts can have."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from ssmbench import plugins
from ssmbench.errors import UnknownName, suggest
from ssmbench.grid.messages import explain
from ssmbench.grid.yaml_source import Document, Loc, Problem, where

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
    from pathlib import Path

    from pydantic import BaseModel

FOLDER_OR_HUB = "expected a folder (relative to the grid file) or a hub id, OWNER/NAME"


class Scope(NamedTuple):
    """What checking needs to know beside the document.

    `overridden` models are given elsewhere by the command line: theirs in the grid is not
    looked for.
    """

    document: Document
    folder: Path
    overridden: Collection[str] = ()

    def problem(self, loc: Loc, text: str, *, key: bool = False) -> Problem:
        """Note a mistake at a place of the document; the sentence names the place if it exists."""
        while loc and not self.has(loc):  # `models[0].name` of a model given by its name alone
            loc = loc[:-1]
        return Problem(self.document.mark(loc, key=key), f"{where(loc)}: {text}")

    def raw(self, loc: Loc) -> Any:
        """Give the value at a place, as written; None where there is none."""
        value = self.document.value
        for part in loc:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def has(self, loc: Loc) -> bool:
        """Whether a value is written at a place."""
        above = self.raw(loc[:-1])
        if isinstance(above, list):
            return isinstance(loc[-1], int) and loc[-1] < len(above)
        return isinstance(above, dict) and loc[-1] in above

    def items(self, loc: Loc) -> Iterator[tuple[Loc, Hashable]]:
        """Give the items of a list that can be compared, with their places."""
        value = self.raw(loc)
        for i, item in enumerate(value if isinstance(value, list) else ()):
            if isinstance(item, str | int | float):
                yield (*loc, i), item


def check_repeats(
    scope: Scope, items: Iterable[tuple[Loc, Hashable]], kind: str
) -> Iterator[Problem]:
    """Find items that are listed more than once."""
    first: dict[Hashable, Loc] = {}
    for loc, item in items:
        if item in first:
            line = scope.document.mark(first[item]).line
            text = f"the same {kind} is listed a second time (first on line {line})"
            yield scope.problem(loc, f"{text}; expected it once")
        first.setdefault(item, loc)


def check_patterns(
    scope: Scope, loc: Loc, kind: str, patterns: Iterable[str] | None, known: Collection[str]
) -> Iterator[Problem]:
    """Check that every name and pattern of a list means something of the grid, once.

    Args:
        scope: the grid.
        loc: where the list stands.
        kind: what it lists: "model" or "method".
        patterns: what it says; None where there is no list.
        known: what the grid has.
    """
    for i, pattern in enumerate(patterns or ()):
        if not any(fnmatchcase(name, pattern) for name in known):
            text = f"no {kind} of the grid is called '{pattern}'.{suggest(pattern, known)}"
            if set(pattern) & set("*?["):
                text = f"no {kind} of the grid matches '{pattern}'.{suggest('', known)}"
            yield scope.problem((*loc, i), text)
    yield from check_repeats(scope, scope.items(loc), kind)


def unknown_name(scope: Scope, loc: Loc, kind: str, name: str, known: Iterable[str]) -> Problem:
    """Say that nothing is called by this name."""
    text = str(UnknownName(kind, name, known))
    if set(name) & set("*?["):
        text = f"'{name}' is a pattern; expected a name, written out.{suggest('', known)}"
    return scope.problem(loc, text)


def check_params(
    scope: Scope,
    plugin: tuple[str, str],
    params: Mapping[str, Any],
    loc: Loc,
    *,
    also: tuple[str, ...] = (),
) -> Iterator[Problem]:
    """Check parameters against a plugin's own schema.

    Args:
        scope: the grid.
        plugin: kind and name, such as ("method", "wanda").
        params: as given.
        loc: where they stand.
        also: keys of ours that stand beside them.
    """
    schema: type[BaseModel] = plugins.load(*plugin).Params
    try:
        schema.model_validate_json(json.dumps(params), strict=True)
    except ValidationError as error:
        yield from explain(error, scope.document, schema, at=loc, also=also)
