"""YAML text to plain values, with the line and column that each of them came from.

YAML 1.2 (ruamel, round-trip): `1e-4` is a number, `on` is text and a key given twice is a
mistake, none of which PyYAML gets right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from ssmbench.errors import GridError
from ssmbench.grid.yaml_strict import Constructor, check_events

if TYPE_CHECKING:
    from pathlib import Path

Loc = tuple[str | int, ...]

_WORD = re.compile(r"[\w+-]+")


class Mark(NamedTuple):
    """A place in the text, both counted from 1."""

    line: int
    column: int


class Problem(NamedTuple):
    """One mistake: where it is and a sentence about it, without the file's name."""

    mark: Mark
    text: str


class Document(NamedTuple):
    """A grid file as read.

    Attributes:
        path: the file, as the user named it.
        text: its content.
        value: the content as JSON values, what cannot be one left out.
        root: ruamel's tree, for positions.
    """

    path: Path
    text: str
    value: Any
    root: Any

    def mark(self, loc: Loc, *, key: bool = False) -> Mark:
        """Find where the value at `loc` is written, or its key.

        A part of `loc` that is not in the document (a missing key, an item of a value that was
        given without its list) is ignored: the place that encloses it is given.
        """
        node, found = self.root, Mark(1, 1)
        for i, part in enumerate(loc):
            place = _place(node, part, key=key and i == len(loc) - 1)
            if place is None:
                break
            found, node = place, node[part]
        return found

    def lines(self, problems: list[Problem]) -> list[str]:
        """Write problems as `file:line:column: text`, in the order of the file."""
        unique = sorted(set(problems))
        return [f"{self.path}:{p.mark.line}:{p.mark.column}: {p.text}" for p in unique]


def where(loc: Loc) -> str:
    """Write a location as a person would: `methods[1].ratio[2]`; other keys than words quoted."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in loc)
    return text.removeprefix(".")


def _key(name: str) -> str:
    return name if _WORD.fullmatch(name) else repr(name)


class Kind(NamedTuple):
    """What a file is meant to be: its name in errors, how it begins, and their class."""

    name: str
    start: str
    error: type[GridError]


GRID = Kind("grid", "expected keys such as 'models:', 'methods:' and 'suites:'", GridError)


def read_document(path: Path, kind: Kind = GRID) -> tuple[Document, list[Problem]]:
    """Read a YAML file whose top is a mapping.

    Args:
        path: the file.
        kind: what it is meant to be.

    Returns:
        The document, and what is wrong with it that does not stop the reading: keys given
        twice, values that have no place in a grid (dates, tagged values, NaN).

    Raises:
        GridError: the file cannot be read, is not UTF-8 or not YAML, is empty, or is not a
            mapping.
    """
    text = _read_text(path, kind)
    yaml = YAML(typ="rt")
    yaml.allow_duplicate_keys = True
    yaml.Constructor = Constructor
    try:
        check_events(yaml, text)
        node = yaml.compose(text)
        root = yaml.load(text)
    except MarkedYAMLError as error:
        raise kind.error([f"{path}:{_syntax(error)}"]) from None
    except YAMLError as error:
        raise kind.error([f"{path}:1:1: this is not YAML: {error}"]) from None
    if root is None:
        raise kind.error([f"{path}:1:1: the file is empty; {kind.start}"])
    document = Document(path, text, None, root)
    if not isinstance(root, CommentedMap):
        raise kind.error([f"{path}:1:1: the file holds {describe(root)}; {kind.start}"])
    problems = list(_duplicates(node))
    cleaner = _Cleaner(document, problems)
    return document._replace(value=cleaner.clean(root, ())), problems


def describe(value: Any) -> str:
    """Say what a value is, for an error: `'on' (text)`, `a list of 3`, `nothing`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true or false)"
    if isinstance(value, int | float):
        return f"{value:.12g} (a number)" if isinstance(value, float) else f"{value} (a number)"
    if isinstance(value, str):
        short = value if len(value) <= 60 else f"{value[:57]}..."
        return f"'{short}' (text)"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, value))
        return f"a mapping with the keys {keys}" if value else "an empty mapping"
    return f"{value!r}"


def _read_text(path: Path, kind: Kind) -> str:
    if path.is_dir():
        raise kind.error([f"{path}: this is a folder; expected a {kind.name} file (YAML)"])
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise kind.error(
            [f"{path}: there is no such file; expected a {kind.name} file (YAML)"]
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise kind.error([f"{path}: the file cannot be read: {reason}"]) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        found = f"the byte 0x{data[error.start]:02x} is not UTF-8 text"
        raise kind.error([f"{path}:{line}:{column}: {found}; save the file as UTF-8"]) from None


# What ruamel says, and what it means for the person who wrote the line.
_SYNTAX = {
    "found character '\\t'": "a tab cannot indent; use spaces",
    "mapping values are not allowed here": (
        "a second ':' on the line, or an indentation that fits no line above; "
        "quote text that holds ': '"
    ),
    "found undefined alias": "the alias (*name) has no anchor (&name) before it",
    "found unexpected end of stream": "a quote is opened and never closed",
    "expected ',' or ']'": "a list opened by '[' is never closed, or lacks a ','",
    "expected ',' or '}'": "a mapping opened by '{' is never closed, or lacks a ','",
    "could not find expected ':'": "a key without a ':' after it",
    "expected <block end>": "a line that does not belong to the list or mapping above it; "
    "check the indentation",
    "but found another document": "a second '---' document; expected one grid a file",
    "cannot start any token": "a character that cannot begin a value; put the text in quotes",
}


def _syntax(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = str(error.problem or error.context or "it cannot be read")
    known = next((text for start, text in _SYNTAX.items() if start in problem), problem)
    opened = error.context_mark
    since = f" (opened on line {opened.line + 1})" if opened and opened.line + 1 != line else ""
    return f"{line}:{column}: this is not YAML: {known}{since}"


def _place(node: Any, part: str | int, *, key: bool) -> Mark | None:
    """Give the mark of one item of a mapping or list; None if it has none of its own."""
    if isinstance(node, CommentedMap) and part in node:
        if part not in (node.lc.data or {}):  # brought in by a merge key (<<)
            return None
        line, column = node.lc.key(part) if key or node[part] is None else node.lc.value(part)
    elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
        line, column = node.lc.item(part)
    else:
        return None
    return Mark(line + 1, column + 1)


def _duplicates(node: Node | None, seen: set[int] | None = None) -> Iterator[Problem]:
    seen = set() if seen is None else seen
    if id(node) in seen:  # an alias leads to the node of its anchor
        return
    seen.add(id(node))
    if isinstance(node, SequenceNode):
        for item in node.value:
            yield from _duplicates(item, seen)
    if not isinstance(node, MappingNode):
        return
    first: dict[Any, int] = {}
    for key, value in node.value:
        name = (key.tag, str(key.value))
        line, column = key.start_mark.line + 1, key.start_mark.column + 1
        if name in first:
            text = f"the key '{key.value}' is given a second time (first on line {first[name]})"
            yield Problem(Mark(line, column), f"{text}; expected it once")
        first.setdefault(name, line)
        yield from _duplicates(value, seen)


@dataclass
class _Cleaner:
    """Turns ruamel's tree into JSON values and notes what is none."""

    document: Document
    problems: list[Problem]

    def clean(self, value: Any, loc: Loc, above: tuple[int, ...] = ()) -> Any:
        if id(value) in above:
            return self._refuse(loc, "an alias that contains itself; expected a value")
        if isinstance(value, CommentedMap):
            pairs = ((self._key(k, loc), k, v) for k, v in value.items())
            above = (*above, id(value))
            return {n: self.clean(v, (*loc, k), above) for n, k, v in pairs if n is not None}
        if isinstance(value, CommentedSeq):
            above = (*above, id(value))
            return [self.clean(v, (*loc, i), above) for i, v in enumerate(value)]
        return self._scalar(value, loc)

    def _scalar(self, value: Any, loc: Loc) -> Any:
        kind = type(value).__name__
        if value is None or isinstance(value, bool):
            return value
        if kind == "ScalarBoolean":
            return bool(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return self._number(float(value), loc)
        if isinstance(value, str):
            return str(value)
        what = getattr(getattr(value, "tag", None), "value", None)
        found = f"a value with the tag {what}" if what else f"a {kind} value"
        return self._refuse(loc, f"{found}; expected text, a number, true or false; quote it")

    def _number(self, value: float, loc: Loc) -> Any:
        if math.isfinite(value):
            return value
        name = "not a number (nan)" if math.isnan(value) else "infinite"
        return self._refuse(loc, f"the value is {name}; expected a finite number")

    def _key(self, key: Any, loc: Loc) -> str | None:
        if isinstance(key, str):
            return str(key)
        mark = self.document.mark((*loc, key), key=True)
        place = f"{where(loc)}: " if loc else ""
        shown = describe(key)
        self.problems.append(Problem(mark, f"{place}the key is {shown}; expected text"))
        return None

    def _refuse(self, loc: Loc, text: str) -> Any:
        """Note a problem; what is given stands for the value."""
        self.problems.append(Problem(self.document.mark(loc), f"{where(loc)}: {text}"))
        return None
