"""What tells the rows of a table apart: parameters of methods and trainings, where they differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ssmbench.plan.labels import default_params

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_NOTHING = object()
# What of a training follows from its text or its length, unless that is set apart.
_FOLLOWS = ("split", "data_version", "warmup")


def method_label(cell: Mapping[str, Any], varied: Mapping[str, Sequence[str]]) -> str:
    """Name a cell's method with those settings that tell it from others and are not usual.

    Args:
        cell: a row of the table `cells`.
        varied: as `varied_settings` gives them.
    """
    settings = settings_of(cell)
    usual = _usual(cell)
    told = [
        f"{n}={_value(settings[n])}"
        for n in varied[cell["method"]]
        if n in settings and settings[n] != usual.get(n, _NOTHING)
    ]
    return f"{cell['method']} ({', '.join(told)})" if told else str(cell["method"])


def settings_of(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a chain is set to beside its last ratio, by name."""
    steps = json.loads(cell["params"])
    settings: dict[str, Any] = {}
    for i, step in enumerate(steps):
        prefix = f"{step['name']}." if len(steps) > 1 else ""
        settings |= {f"{prefix}{k}": v for k, v in step["params"].items()}
        settings[f"{prefix}version"] = step["version"]
        if i < len(steps) - 1:
            settings[f"{prefix}ratio"] = step["ratio"]
    calibration = json.loads(cell["calibration"]) if cell["calibration"] else {}
    return settings | {f"calibration.{k}": v for k, v in calibration.items()}


def _usual(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the parameters among a chain's settings are by default."""
    steps = json.loads(cell["params"])
    return {
        (f"{step['name']}." if len(steps) > 1 else "") + name: value
        for step in steps
        for name, value in default_params(step["name"]).items()
    }


def varied_settings(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Find, for each method, the settings in which its rows differ."""
    seen: dict[str, dict[str, set[str]]] = {}
    for cell in cells:
        values = seen.setdefault(cell["method"], {})
        for name, value in settings_of(cell).items():
            values.setdefault(name, set()).add(json.dumps(value))
    return {m: [n for n, found in v.items() if len(found) > 1] for m, v in seen.items()}


def recipe_of(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Give the parameters of a cell's training."""
    recipe: dict[str, Any] = json.loads(cell["fine_tune_params"] or "{}")
    return recipe


def training_labels(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], str]:
    """Name each training of each model by its kind, and by what tells it from the others."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for cell in cells:
        same_kind = found.setdefault((cell["model"], cell["fine_tune"]), {})
        same_kind[cell["fine_tune_params"]] = recipe_of(cell)
    names = {}
    for (model, kind), recipes in found.items():
        keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
        told = [k for k in keys if len(_different(recipes.values(), [k])) > 1]
        for key in _FOLLOWS:
            rest = [k for k in told if k != key]
            if len(_different(recipes.values(), rest)) == len(recipes):
                told = rest
        for text, recipe in recipes.items():
            values = ", ".join(f"{key}={_value(recipe.get(key))}" for key in told)
            names[model, kind, text] = f"{kind} ({values})" if values else kind
    return names


def _different(recipes: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> set[str]:
    return {json.dumps([recipe.get(key) for key in keys]) for recipe in recipes}


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return str(value)
