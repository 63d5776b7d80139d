"""WANDA: unstructured pruning by |w| · ‖x‖, layer after layer, without retraining.

Source: Sun et al. 2023, arXiv:2306.11695, applied to the in_proj and out_proj of SSM mixers as
in "On Pruning State-Space LLMs", arXiv:2502.18886. The norms come from the tensors that truly
enter each projection: that paper's public code never saw Mamba-2's out_proj inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from ssmbench.errors import NumericalError
from ssmbench.surgery.projections import (
    Targets,
    apply_mask,
    keep_largest,
    projections,
    zero_fraction,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext
else:
    from ssmbench.lazy import torch

VERSION = 1
SOURCE = "Sun et al. 2023, arXiv:2306.11695"
NEEDS = frozenset({"calibration"})


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which projections are pruned; whether a layer sees the layers before it pruned."""

    targets: Targets = Field(default="both", description="Which projections are pruned.")
    sequential: bool = Field(
        default=True, description="Take norms after the layers before are pruned, as published."
    )


def wanda_keep(weight: Tensor, input_norm: Tensor, ratio: float) -> Tensor:
    """Mark the weights WANDA keeps: per output row, those of largest |w| · ‖x‖.

    Args:
        weight: (out, in), any float dtype; compared in float32.
        input_norm: (in,), L2 norm of each input feature over the calibration windows.
        ratio: fraction of each row to drop, in [0, 1).

    Returns:
        (out, in) bool, True = kept; every row drops exactly floor(in · ratio).

    Raises:
        NumericalError: a norm is not finite.

    Source: Sun et al. 2023, eq. 1. On ties the lower index is kept.
    """
    if not bool(torch.isfinite(input_norm).all()):
        raise NumericalError("WANDA: found an input norm that is not finite; expected numbers.")
    return keep_largest(weight.float().abs() * input_norm.float(), ratio)


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> float:
    """Zero floor(in · ratio) weights of every output row of the targeted projections, in place.

    Sequential (the published algorithm): a layer's norms are taken before it is pruned, on
    inputs that come from the pruned layers before it.

    Returns:
        The fraction of zeros among the targeted weights afterwards.
    """
    from ssmbench.surgery.statistics import walk

    names = tuple(dict.fromkeys(p.name for p in projections(model, params.targets)))
    n_layers = len(model.layers)
    masks = []
    blocks = walk(model, context.windows(), names, batch_tokens=context.batch_tokens)
    for i, (block, norms) in enumerate(blocks):
        context.report("compress: wanda", i, n_layers)
        for name, norm in norms.items():
            weight = getattr(block.mixer, name).weight
            keep = wanda_keep(weight, norm, ratio)
            if params.sequential:
                apply_mask(weight, keep)
            else:
                masks.append((weight, keep))
    for weight, keep in masks:
        apply_mask(weight, keep)
    return zero_fraction(model, params.targets)
