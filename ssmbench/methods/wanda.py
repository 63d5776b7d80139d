"""WANDA: unstructured pruning by |w| · ‖x‖, layer after layer, without retraining.

Source: Sun et al. 2023, arXiv:2306.11695, applied to the in_proj and out_proj of SSM mixers as
in "On Pruning State-Space LLMs", arXiv:2502.18886, and to attention and MLPs when asked. The
norms come from the tensors that truly enter each projection: that paper's public code never saw
Mamba-2's out_proj inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from ssmbench.errors import NumericalError
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
    from collections.abc import Iterable, Iterator

    import torch
    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext
    from ssmbench.surgery.projections import Projection
else:
    from ssmbench.lazy import torch

VERSION = 1
KEEPS_SIZES = True
SOURCE = "Sun et al. 2023, arXiv:2306.11695"


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which projections are pruned; whether a layer sees the layers before it pruned."""

    targets: Targets = Field(default="both", description="Which projections are pruned.")
    layers: Layers = Field(default="ssm", description="Of which layers.")
    pattern: Pattern | None = Field(
        default=None,
        description="N:M, such as 2:4, keeps N of every M consecutive inputs; ratio is 1 - N/M.",
    )
    sequential: bool = Field(
        default=True, description="Take norms after the layers before are pruned, as published."
    )


def needs(params: Params) -> frozenset[str]:
    """Say what the result depends on besides the model."""
    return frozenset({"calibration"})


def wanda_keep(
    weight: Tensor, input_norm: Tensor, ratio: float, *, pattern: str | None = None
) -> Tensor:
    """Mark the weights WANDA keeps: per output row, those of largest |w| · ‖x‖.

    Args:
        weight: (out, in), any float dtype; compared in float32.
        input_norm: (in,), L2 norm of each input feature over the calibration windows.
        ratio: fraction of each row to drop, in [0, 1).
        pattern: "N:M" keeps N of every M consecutive inputs, whatever the ratio.

    Returns:
        (out, in) bool, True = kept; every row drops exactly floor(in · ratio).

    Raises:
        NumericalError: a norm is not finite.

    Source: Sun et al. 2023, eq. 1. On ties the lower index is kept.
    """
    if not bool(torch.isfinite(input_norm).all()):
        raise NumericalError("WANDA: found an input norm that is not finite; expected numbers.")
    scores = weight.float().abs() * input_norm.float()
    return keep_pattern(scores, pattern) if pattern else keep_largest(scores, ratio)


def zeros(model: Decoder, params: Params) -> float:
    """Measure the fraction of zeros among the targeted weights: they stay when others train."""
    return zero_fraction(model, params.targets, params.layers)


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> float:
    """Zero floor(in · ratio) weights of every output row of the targeted projections, in place.

    Sequential (the published algorithm): a layer's norms, those of its MLP included, are taken
    before it is pruned, on inputs that come from the pruned layers before it.

    Returns:
        The fraction of zeros among the targeted weights afterwards.

    Raises:
        MethodError: the model has no such layers, or the pattern fits neither ratio nor rows.
    """
    found = list(projections(model, params.targets, params.layers))
    check_pattern(params.pattern, ratio, found)
    norms = _norms_layer_by_layer if params.sequential else _norms_at_once
    n_layers = len(model.layers)
    for projection, norm in norms(model, found, params, context):
        context.report("compress: wanda", projection.layer, n_layers)
        weight = projection.module.weight
        keep = wanda_keep(weight, norm.to(weight.device), ratio, pattern=params.pattern)
        apply_mask(weight, keep)
    return zeros(model, params)


def _norms_layer_by_layer(
    model: Decoder, found: Iterable[Projection], params: Params, context: MethodContext
) -> Iterator[tuple[Projection, Tensor]]:
    """Give each projection its input norm, once all layers before it have been dealt with."""
    from ssmbench.surgery.statistics import walk

    by_place = {(p.layer, p.name): p for p in found}
    windows = context.windows()
    for layer, norms in walk(model, windows, by_place.values(), batch_tokens=context.batch_tokens):
        for name, norm in norms.items():
            yield by_place[layer, name], norm


def _norms_at_once(
    model: Decoder, found: Iterable[Projection], params: Params, context: MethodContext
) -> Iterator[tuple[Projection, Tensor]]:
    """Give each projection its input norm in the model as it is before this step.

    Both targets' norms are computed, whichever are asked for: cells that differ in `targets` or
    ratio share them.
    """

    def compute() -> dict[str, Tensor]:
        from ssmbench.surgery.statistics import SquareSums, run

        both = projections(model, "both", params.layers)
        with SquareSums({p.where: p.module for p in both}) as sums:
            run(model, windows, batch_tokens=context.batch_tokens)
        return sums.norms()

    windows = context.windows()
    key = {"statistics": "norms", "layers": params.layers, "version": 1}
    norms = context.share(key, compute)
    for projection in found:
        yield projection, norms[projection.where]
