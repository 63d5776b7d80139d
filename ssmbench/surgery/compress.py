"""Applying a chain of methods to a model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

from ssmbench import plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext, Share


class StepLike(Protocol):
    """One method of a chain: its name, the fraction to remove and its parameters."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def ratio(self) -> float: ...  # noqa: D102

    @property
    def params(self) -> Mapping[str, Any]: ...  # noqa: D102


def apply(model: Decoder, steps: Sequence[StepLike], context: MethodContext) -> float | None:
    """Compress a model in place, step by step.

    Statistics that a step shares are those of the model that the steps before it have left.

    Returns:
        The last step's achieved ratio, measured on the model; None where it removes nothing
        that can be counted (dense).

    Raises:
        MethodError: a method cannot do its job on this model.
    """
    achieved: float | None = None
    for i, step in enumerate(steps):
        context.report(f"compress: {step.name}", i, len(steps))
        method = plugins.load("method", step.name)
        params = method.Params.model_validate(dict(step.params))
        own = dataclasses.replace(context, share=_after(steps[:i], context))
        achieved = method.compress(model, ratio=step.ratio, params=params, context=own)
    return achieved


def zeros(model: Decoder, step: StepLike) -> float | None:
    """Measure the fraction of zeros that a step has left among the weights that it prunes.

    Training must keep them, or it undoes the step.

    Returns:
        As the method says; None for one that leaves none.
    """
    method = plugins.load("method", step.name)
    if step.ratio == 0 or not hasattr(method, "zeros"):
        return None
    found: float | None = method.zeros(model, method.Params.model_validate(dict(step.params)))
    return found


def _after(steps: Sequence[StepLike], context: MethodContext) -> Share:
    """Give `context.share` with the steps before in its keys, where there are any.

    They may have drawn at random, so the cell's seed belongs to them.
    """
    if not steps:
        return context.share
    after = {
        "seed": context.seed,
        "steps": [
            {
                "name": step.name,
                "version": plugins.load("method", step.name).VERSION,
                "ratio": step.ratio,
                "params": dict(step.params),
            }
            for step in steps
        ],
    }

    def share(key: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]) -> Any:
        return context.share({**key, "after": after}, compute)

    return share
