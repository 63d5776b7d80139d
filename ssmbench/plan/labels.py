"""Short names for people: what of a method or training is not as usual."""

from __future__ import annotations

from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ssmbench import plugins
from ssmbench.grid.fine_tune import KINDS, make_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.plan.cells import FineTune, Step

# What of a training follows from its text.
_AS_DATA = ("split", "data_version")


def step_label(step: Step) -> str:
    """Name a step with its ratio and those parameters that are not the method's defaults."""
    if step.name == "dense":
        return step.name
    usual = default_params(step.name)
    told = [f"{k}={v}" for k, v in step.params.items() if usual.get(k, v) != v]
    return f"{step.name} {step.ratio:g}" + (f" ({', '.join(told)})" if told else "")


def training_label(tuned: FineTune, dtype: str) -> str:
    """Name a training with what is not as the kind's own preset has it: `kd (steps=200)`.

    Args:
        tuned: the training; a text of the user's own is told by its file's or folder's name.
        dtype: the cell's, which is usual where the preset has none.
    """
    usual = {"dtype": dtype, **usual_params(tuned.kind, tuned.params.get("steps"))}
    usual["steps"] = usual_params(tuned.kind).get("steps")
    told = {k: v for k, v in tuned.params.items() if k not in _AS_DATA and usual.get(k) != v}
    if tuned.path is not None:
        told["data"] = PurePath(tuned.path).name
    text = ", ".join(f"{key}={_short(value)}" for key, value in told.items())
    return f"{tuned.kind} ({text})" if text else tuned.kind


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def default_params(method: str) -> Mapping[str, Any]:
    """Give a method's default parameters; nothing for one that this version does not know."""
    if method not in plugins.names("method"):
        return {}
    defaults: dict[str, Any] = plugins.load("method", method).Params().model_dump(mode="json")
    return defaults


@cache
def usual_params(kind: str, steps: int | None = None) -> Mapping[str, Any]:
    """Give a training's parameters by its kind's own preset; nothing for an unknown kind.

    Args:
        kind: of the training.
        steps: how long it is; the preset's length if None.
    """
    known = next((k for k in KINDS if k == kind), None)
    return make_recipe(known, steps=steps).params if known else {}
