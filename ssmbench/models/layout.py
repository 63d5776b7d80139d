"""A description as JSON, for ssmbench's own checkpoints: any model, uneven layers included.

Each record becomes an object whose `is` names its type; infinity is written as "inf", since JSON
has no word for it.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ssmbench.errors import CheckpointError
from ssmbench.models import description as d

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL_TYPE = "ssmbench"
VERSION = 1

_RECORDS = {
    record.__name__: record
    for record in (
        d.Description,
        d.Layer,
        d.Norm,
        d.SSD,
        d.SelectiveScan,
        d.Attention,
        d.RopeScaling,
        d.MLP,
    )
}


def is_ours(files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a folder's JSON files (name → content) are of ssmbench's own layout."""
    return files.get("config.json", {}).get("model_type") == MODEL_TYPE


def config(description: d.Description) -> dict[str, Any]:
    """Give the config.json of ssmbench's own layout."""
    return {
        "model_type": MODEL_TYPE,
        "version": VERSION,
        "description": _to_json(description),
    }


def describe(files: Mapping[str, Mapping[str, Any]], where: str) -> d.Description:
    """Read the description that `config` wrote.

    Raises:
        CheckpointError: another version, or something that is no description.
    """
    content = files["config.json"]
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{where}/config.json: found layout version {content.get('version')!r}; expected "
            f"{VERSION}. Read it with the version of ssmbench that wrote it."
        )
    try:
        found = _from_json(content.get("description"))
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no record is called {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{where}/config.json: cannot be read as a description: {reason}. "
            "Expected the file as `ssmbench compress` wrote it."
        ) from None
    if not isinstance(found, d.Description):
        raise CheckpointError(
            f"{where}/config.json: found no description of a model; expected the file as "
            "`ssmbench compress` wrote it."
        )
    return found


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    """List where a description differs from what would be read in its place.

    Such as `layers.1.mixer.norm_eps is 2e-05 and would be read as 1e-05`.
    """
    parts: dict[str, tuple[Any, Any]] = {}
    if type(one) is type(other) and dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        parts = {name: (getattr(one, name), getattr(other, name)) for name in names}
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        parts = {str(i): both for i, both in enumerate(zip(one, other, strict=True))}
    if parts:
        return [t for name, (a, b) in parts.items() for t in differences(a, b, f"{at}.{name}")]
    where, read = at.removeprefix("."), _short(other)
    return [] if one == other else [f"{where} is {_short(one)} and would be read as {read}"]


def _short(value: Any) -> str:
    """Write a value; a whole record by its name alone."""
    if dataclasses.is_dataclass(value):
        return type(value).__name__
    if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        return f"{len(value)} long"
    return repr(value)


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {f.name: _to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [_to_json(v) for v in value]
    return "inf" if value == math.inf else value


def _from_json(value: Any) -> Any:
    """Make records of objects; their fields are checked, those left out have their defaults."""
    if isinstance(value, dict):
        record = _RECORDS[value["is"]]
        fields = {k: _from_json(v) for k, v in value.items() if k != "is"}
        unknown = set(fields) - {f.name for f in dataclasses.fields(record)}
        if unknown:
            raise TypeError(f"{value['is']} has no {', '.join(sorted(unknown))}")
        for name, field in fields.items():
            try:
                _adapters(record)[name].validate_python(field, strict=True)
            except ValidationError as error:
                raise ValueError(f"{value['is']}.{name}: {error.errors()[0]['msg']}") from None
        return record(**fields)
    if isinstance(value, list):
        return tuple(_from_json(v) for v in value)
    return math.inf if value == "inf" else value


@cache
def _adapters(record: type) -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(record).items()}
