"""What pydantic found, in our words: where, what was found, what was expected.

One function gives the problems of any failed validation, of a grid or of a plugin's
parameters, so that all read alike.
"""

from __future__ import annotations

import ast
import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from ssmbench.errors import suggest
from ssmbench.grid.yaml_source import Document, Loc, Problem, describe, where

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# What stands at a place, by the type that was wanted.
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of sensible size",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping (key: value)",
    "none_required": "nothing",
    "finite_number": "a finite number",
}

# The comparisons, as they are read after "expected".
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
    "multiple_of": ("multiple_of", "a multiple of"),
}

# A shorthand exists for these parts: what may stand in place of the mapping.
_SHORTHAND = {
    "ModelEntry": "a model's name or a mapping such as {path: FOLDER}",
    "MethodEntry": "a method's name or a mapping such as {method: NAME, ratio: 0.5}",
    "FineTuneEntry": "none, kd, ce, dense+sparse or a mapping such as {fine_tune: kd, steps: 200}",
    "SuiteEntry": "a suite's name or a mapping such as {suite: NAME}",
}


def explain(
    error: ValidationError,
    document: Document,
    schema: type[BaseModel],
    *,
    at: Loc = (),
    also: tuple[str, ...] = (),
) -> Iterator[Problem]:
    """Give the problems behind a failed validation.

    Args:
        error: what pydantic raised.
        document: the file; positions are looked up in it.
        schema: the model that was validated against.
        at: where in the document the validated value stands.
        also: keys that may stand at the top of the value beside the schema's own.
    """
    for detail in error.errors(include_url=False):
        loc = (*at, *_in_document(detail["loc"], document, at))
        value, present = _lookup(document.value, loc)
        if detail["type"] in {"too_short", "ours"} and _nested(error, detail["loc"]):
            continue  # its items are wrong, which is reported of each
        unknown = detail["type"] == "extra_forbidden"
        text = _sentence({**detail, "also": also}, value if present else detail["input"], schema)
        place = where(loc[:-1] if unknown or not present else loc)
        lead = f"{place}: " if place else ""
        yield Problem(document.mark(loc, key=unknown), lead + text)


def _in_document(loc: tuple[int | str, ...], document: Document, at: Loc) -> Loc:
    """Leave out what pydantic adds to a location: union branches, `[key]`, widened lists."""
    kept: Loc = ()
    for i, part in enumerate(loc):
        _, present = _lookup(document.value, (*at, *kept, part))
        if present or (i == len(loc) - 1 and isinstance(part, str) and part.isidentifier()):
            kept = (*kept, part)
    return kept


def _lookup(value: Any, loc: Loc) -> tuple[Any, bool]:
    for part in loc:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None, False
    return value, True


def _nested(error: ValidationError, loc: tuple[int | str, ...]) -> bool:
    others = (other["loc"] for other in error.errors(include_url=False))
    return any(len(o) > len(loc) and o[: len(loc)] == loc for o in others)


def _sentence(detail: dict[str, Any], value: Any, schema: type[BaseModel]) -> str:
    kind, context = str(detail["type"]), detail.get("ctx") or {}
    found = f"found {describe(value)}"
    if kind in _WORDED:
        return _WORDED[kind](detail, found, schema)
    if kind in _EXPECTED:
        return f"{found}; expected {_EXPECTED[kind]}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{found}; expected {words} {context[key]:g}"
    reason = str(detail["msg"]).removeprefix("Value error, ")
    return reason if kind in {"ours", "value_error", "assertion_error"} else f"{found}; {reason}"


def _missing(detail: dict[str, Any], _: str, schema: type[BaseModel]) -> str:
    name = str(detail["loc"][-1])
    owner = _part(schema, detail["loc"][:-1])
    hint = owner.model_fields[name].description if owner and name in owner.model_fields else None
    expected = f"; expected {_clause(hint)}" if hint else ""
    return f"the key '{name}' is missing{expected}"


def _extra(detail: dict[str, Any], _: str, schema: type[BaseModel]) -> str:
    name = str(detail["loc"][-1])
    owner = _part(schema, detail["loc"][:-1])
    also = detail["also"] if len(detail["loc"]) == 1 else ()
    known = [*also, *(owner.model_fields if owner else ())]
    return unknown_key(name, known)


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Say that a mapping has no such key, which it might be, and which there are."""
    return f"the key '{name}' is unknown.{suggest(name, known)}"


def _choice(detail: dict[str, Any], found: str, _: type[BaseModel]) -> str:
    text = detail["ctx"]["expected"].replace(" or ", ", ")
    choices = [str(ast.literal_eval(part)) for part in text.split(", ")]
    return f"{found}; expected one of these.{suggest(str(detail['input']), choices)}"


def _mapping(detail: dict[str, Any], found: str, _: type[BaseModel]) -> str:
    name = (detail.get("ctx") or {}).get("class_name", "")
    return f"{found}; expected {_SHORTHAND.get(name, 'a mapping (key: value)')}"


def _length(detail: dict[str, Any], found: str, _: type[BaseModel]) -> str:
    context = detail["ctx"]
    least = "min_length" in context
    n = context["min_length" if least else "max_length"]
    items = "one item" if n == 1 else f"{n} items"
    return f"{found}; expected at {'least' if least else 'most'} {items}"


def _no_text(_: dict[str, Any], found: str, __: type[BaseModel]) -> str:
    return f"{found}; expected text that is not empty"


_WORDED: dict[str, Callable[[dict[str, Any], str, type[BaseModel]], str]] = {
    "missing": _missing,
    "extra_forbidden": _extra,
    "literal_error": _choice,
    "enum": _choice,
    "model_type": _mapping,
    "model_attributes_type": _mapping,
    "too_short": _length,
    "too_long": _length,
    "string_too_short": _no_text,
}


def _clause(description: str) -> str:
    """Make a field's description the end of a sentence."""
    text = description.rstrip(".")
    return text[0].lower() + text[1:]


def _part(schema: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Find the model that describes the mapping at `loc`; None for a free mapping."""
    owner: type[BaseModel] | None = schema
    for name in loc:
        if isinstance(name, str) and owner and name in owner.model_fields:
            owner = _inner(owner.model_fields[name].annotation)
    return owner


def _inner(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((part for a in typing.get_args(annotation) if (part := _inner(a))), None)
