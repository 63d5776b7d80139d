"""The forms that values of a grid file may have: one or a list, a name or a mapping."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.functional_validators import BeforeValidator
from pydantic.json_schema import WithJsonSchema

MAX_SEED = 2**32 - 1

Name = Annotated[str, Field(min_length=1)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class Part(BaseModel):
    """A piece of a grid: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _listed_names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _listed(value)


def _one_or_list(item: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]})


Ratios = Annotated[
    tuple[Ratio, ...],
    Field(min_length=1),
    BeforeValidator(_listed),
    _one_or_list({"type": "number", "minimum": 0, "exclusiveMaximum": 1}),
]
Patterns = Annotated[
    tuple[Name, ...],
    Field(min_length=1),
    BeforeValidator(_listed_names),
    _one_or_list({"type": "string", "minLength": 1}),
]


def gather(value: Any, *, name: str, known: tuple[str, ...]) -> Any:
    """Widen a name to a mapping and move the keys that are not ours under `params`."""
    if isinstance(value, str):
        return {name: value}
    if not isinstance(value, dict):
        return value
    own = {k: v for k, v in value.items() if k in known}
    return {**own, "params": {k: v for k, v in value.items() if k not in known}}


def open_mapping(schema: dict[str, Any]) -> None:
    """Describe in JSON Schema what `gather` accepts: a name, or a mapping with more keys."""
    schema["properties"].pop("params")
    schema["additionalProperties"] = True
    or_name(schema)


def or_name(schema: dict[str, Any]) -> None:
    """Describe in JSON Schema that a name may stand in place of the mapping."""
    whole = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string", "description": "A name alone."}, whole]
