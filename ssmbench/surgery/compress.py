"""Applying a chain of methods to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ssmbench import plugins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext


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
        achieved = method.compress(model, ratio=step.ratio, params=params, context=context)
    return achieved
