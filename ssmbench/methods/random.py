"""Unstructured pruning at random: what any score has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from ssmbench.surgery.projections import (
    Targets,
    apply_mask,
    keep_largest,
    projections,
    zero_fraction,
)

if TYPE_CHECKING:
    import torch

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext
else:
    from ssmbench.lazy import torch

VERSION = 1
SOURCE = "baseline"
NEEDS = frozenset({"seed"})


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which projections of the SSM mixers are pruned."""

    targets: Targets = Field(default="both", description="Which projections are pruned.")


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> float:
    """Zero floor(in · ratio) weights of every output row, chosen by the seed alone, in place.

    Returns:
        The fraction of zeros among the targeted weights afterwards.
    """
    generator = torch.Generator().manual_seed(context.seed)
    for projection in projections(model, params.targets):
        weight = projection.module.weight
        scores = torch.rand(weight.shape, generator=generator)
        apply_mask(weight, keep_largest(scores, ratio).to(weight.device))
    return zero_fraction(model, params.targets)
