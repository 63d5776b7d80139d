"""The forms that values of a grid file may have: one or a list, a name or a mapping."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic.functional_validators import BeforeValidator
from pydantic.json_schema import WithJsonSchema

MAX_SEED = 2**32 - 1
DENSE = "dense"

Name = Annotated[str, Field(min_length=1)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class Part(BaseModel):
    """A piece of a grid: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class MatchFlops(Part):
    """In place of a ratio, where tokens are dropped: the one that costs as much as another model.

    It is found before anything runs, for each model by itself.
    """

    match_flops: Name = Field(
        description="The model to cost as much as, uncompressed: one of the grid's or the "
        "catalogue's."
    )
    prompt: Annotated[int, Field(ge=1)] = Field(
        default=1000, description="Tokens of the prompt of the one input that is counted."
    )
    answer: Annotated[int, Field(ge=1)] = Field(
        default=10, description="Tokens of its answer, which are never dropped."
    )
    head: Literal["all", "scored"] = Field(
        default="all",
        description="`all` counts the head on every position left, `scored` on the answer's.",
    )
    otherwise: Literal["power"] | None = Field(
        default=None,
        description="`power`: where no ratio of the method's own schedule will do, take ratio 0.9 "
        "and that power of the power schedule which will. By default that is a mistake.",
    )


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    one = isinstance(value, int | float | dict) and not isinstance(value, bool)
    return (value,) if one else value


def _kind(value: Any) -> str:
    # Not words that could be keys: messages leave them out of a value's place.
    return "a match" if isinstance(value, dict | MatchFlops) else "a number"


def _listed_names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _listed(value)


def _one_or_list(item: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]})


_NUMBER = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
Ratios = Annotated[
    tuple[
        Annotated[
            Annotated[Ratio, Tag("a number")] | Annotated[MatchFlops, Tag("a match")],
            Discriminator(_kind),
        ],
        ...,
    ],
    Field(min_length=1),
    BeforeValidator(_listed),
    _one_or_list({"anyOf": [_NUMBER, MatchFlops.model_json_schema()]}),
]
Patterns = Annotated[
    tuple[Name, ...],
    Field(min_length=1),
    BeforeValidator(_listed_names),
    _one_or_list({"type": "string", "minLength": 1}),
]


def among(name: str, patterns: tuple[str, ...] | None) -> bool:
    """Whether a name matches one of some patterns; no patterns mean every name."""
    return patterns is None or any(fnmatchcase(name, p) for p in patterns)


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
