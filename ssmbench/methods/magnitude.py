"""Unstructured pruning by |w|, the oldest score.

Source: Han et al. 2015, arXiv:1506.02626; compared over a whole matrix, as in WANDA's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from ssmbench.surgery.projections import (
    Layers,
    Pattern,
    Targets,
    apply_mask,
    check_pattern,
    keep_largest,
    keep_pattern,
    projections,
    zero_fraction,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext

VERSION = 1
KEEPS_SIZES = True
SOURCE = "Han et al. 2015, arXiv:1506.02626"


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which projections are pruned, and over what the weights are compared."""

    targets: Targets = Field(default="both", description="Which projections are pruned.")
    layers: Layers = Field(default="ssm", description="Of which layers.")
    per: Literal["matrix", "row"] = Field(
        default="matrix",
        description="Over what the weights are compared where there is no pattern.",
    )
    pattern: Pattern | None = Field(
        default=None,
        description="N:M, such as 2:4, keeps N of every M consecutive inputs; ratio is 1 - N/M.",
    )


def needs(params: Params) -> frozenset[str]:
    """Say what the result depends on besides the model: nothing."""
    return frozenset()


def magnitude_keep(
    weight: Tensor, ratio: float, *, per: Literal["matrix", "row"], pattern: str | None = None
) -> Tensor:
    """Mark the weights of largest |w|: over the whole matrix, in each output row, or N of M.

    Args:
        weight: (out, in), any float dtype; compared in float32.
        ratio: fraction to drop, in [0, 1).
        per: "matrix" drops exactly floor(out · in · ratio); "row" floor(in · ratio) of each row.
        pattern: "N:M" keeps N of every M consecutive inputs of each row, whatever `per` says.

    Returns:
        (out, in) bool, True = kept.
    """
    scores = weight.float().abs()
    if pattern:
        return keep_pattern(scores, pattern)
    if per == "row":
        return keep_largest(scores, ratio)
    return keep_largest(scores.flatten(), ratio).view(weight.shape)


def zeros(model: Decoder, params: Params) -> float:
    """Measure the fraction of zeros among the targeted weights: they stay when others train."""
    return zero_fraction(model, params.targets, params.layers)


def compress(
    model: Decoder,
    *,
    ratio: float,
    params: Params,
    context: MethodContext,
) -> float:
    """Zero the smallest weights of each targeted projection, in place.

    Returns:
        The fraction of zeros among the targeted weights afterwards.

    Raises:
        MethodError: the model has no such layers, or the pattern fits neither ratio nor rows.
    """
    found = list(projections(model, params.targets, params.layers))
    check_pattern(params.pattern, ratio, found)
    for projection in found:
        weight = projection.module.weight
        keep = magnitude_keep(weight, ratio, per=params.per, pattern=params.pattern)
        apply_mask(weight, keep)
    return zeros(model, params)
