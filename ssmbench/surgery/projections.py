"""The projections that unstructured methods prune, and what they have in common."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from ssmbench.errors import MethodError
from ssmbench.models.description import Attention

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor, nn

    from ssmbench.models.decoder import Decoder
else:
    from ssmbench.lazy import torch

Targets = Literal["in_proj", "out_proj", "both"]


class Projection(NamedTuple):
    """A linear layer of an SSM mixer: its layer's index, its name there, and the module."""

    layer: int
    name: str
    module: nn.Linear


def projections(model: Decoder, targets: Targets) -> Iterator[Projection]:
    """Go through the SSM mixers' in_proj and out_proj, layer by layer.

    These are what "On Pruning State-Space LLMs" prunes with WANDA (its Table 1).

    Raises:
        MethodError: the model has no SSM mixer.
    """
    names = ("in_proj", "out_proj") if targets == "both" else (targets,)
    ssm = [i for i, s in enumerate(model.description.layers) if not isinstance(s.mixer, Attention)]
    if not ssm:
        raise MethodError(
            f"{model.description.family}: found no SSM mixer; expected in_proj and out_proj "
            "to prune. Choose a family that has them."
        )
    for i in ssm:
        mixer = model.layers[i].mixer
        for name in names:
            yield Projection(i, name, getattr(mixer, name))


def n_dropped(n: int, ratio: float) -> int:
    """Give floor(n · ratio), safe against 0.29 · 100 being 28.999… in floating point."""
    return math.floor(n * ratio + 1e-9)


def keep_largest(scores: Tensor, ratio: float) -> Tensor:
    """Mark all but the floor(n · ratio) smallest of the last axis; on ties the lower index stays.

    Args:
        scores: (…, n), comparable floats.
        ratio: fraction to drop, in [0, 1).

    Returns:
        (…, n) bool, True = kept.
    """
    n = scores.shape[-1]
    order = scores.argsort(dim=-1, descending=True, stable=True)
    keep = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return keep.scatter_(-1, order[..., : n - n_dropped(n, ratio)], value=True)


def apply_mask(weight: Tensor, keep: Tensor) -> None:
    """Set the dropped entries of a weight to zero in place."""
    with torch.no_grad():
        weight.masked_fill_(~keep, 0)


def zero_fraction(model: Decoder, targets: Targets) -> float:
    """Measure the fraction of zeros among the targeted projections' weights."""
    zeros = total = 0
    for projection in projections(model, targets):
        weight = projection.module.weight
        zeros += weight.numel() - int(torch.count_nonzero(weight))
        total += weight.numel()
    return zeros / total
