"""Unstructured pruning by |w|, the oldest score.

Source: Han et al. 2015, arXiv:1506.02626; compared over a whole matrix, as in WANDA's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from ssmbench.surgery.projections import (
    Targets,
    apply_mask,
    keep_largest,
    projections,
    zero_fraction,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext

VERSION = 1
SOURCE = "Han et al. 2015, arXiv:1506.02626"
NEEDS: frozenset[str] = frozenset()


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which projections are pruned, and over what the weights are compared."""

    targets: Targets = Field(default="both", description="Which projections are pruned.")
    per: Literal["matrix", "row"] = Field(
        default="matrix", description="Over what the weights are compared."
    )


def magnitude_keep(weight: Tensor, ratio: float, *, per: Literal["matrix", "row"]) -> Tensor:
    """Mark the weights of largest |w|, over the whole matrix or within each output row.

    Args:
        weight: (out, in), any float dtype; compared in float32.
        ratio: fraction to drop, in [0, 1).
        per: "matrix" drops exactly floor(out · in · ratio); "row" floor(in · ratio) of each row.

    Returns:
        (out, in) bool, True = kept.
    """
    scores = weight.float().abs()
    if per == "row":
        return keep_largest(scores, ratio)
    return keep_largest(scores.flatten(), ratio).view(weight.shape)


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
    """
    for projection in projections(model, params.targets):
        weight = projection.module.weight
        apply_mask(weight, magnitude_keep(weight, ratio, per=params.per))
    return zero_fraction(model, params.targets)
