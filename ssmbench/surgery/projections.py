"""The projections that unstructured methods prune, and what they have in common."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, cast

from pydantic import AfterValidator

from ssmbench.errors import MethodError
from ssmbench.models.description import SSD, Attention, SelectiveScan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch
    from torch import Tensor, nn

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.description import Layer
else:
    from ssmbench.lazy import torch

Targets = Literal["in_proj", "out_proj", "both"]
Layers = Literal["ssm", "attention", "mlp", "all"]

# What in_proj and out_proj stand for where a layer calls them otherwise.
_PATHS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "ssm": {"in_proj": ("mixer.in_proj",), "out_proj": ("mixer.out_proj",)},
    "attention": {
        "in_proj": ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj"),
        "out_proj": ("mixer.o_proj",),
    },
    "mlp": {"in_proj": ("mlp.fc1",), "out_proj": ("mlp.fc2",)},
}


class Projection(NamedTuple):
    """A linear layer: its layer's index, its path within that ("mixer.in_proj"), the module."""

    layer: int
    name: str
    module: nn.Linear

    @property
    def where(self) -> str:
        """Give its name for a message."""
        return f"layers.{self.layer}.{self.name}"


def projections(model: Decoder, targets: Targets, layers: Layers = "ssm") -> Iterator[Projection]:
    """Go through the projections, layer by layer, a layer's mixer before its MLP.

    "On Pruning State-Space LLMs" prunes those of SSM mixers with WANDA (its Table 1). In
    attention, q_proj, k_proj and v_proj count as the in_proj and o_proj as the out_proj; in an
    MLP, fc1 and fc2. Layers whose mixer was removed have none.

    Args:
        model: of any family.
        targets: "in_proj", "out_proj" or "both".
        layers: "ssm", "attention", "mlp" or "all".

    Raises:
        MethodError: the model has no such layer.
    """
    ends = ("in_proj", "out_proj") if targets == "both" else (targets,)
    kinds = [_kinds(spec) for spec in model.description.layers]
    if not any(layers in ("all", kind) for found in kinds for kind in found):
        there = sorted({kind for found in kinds for kind in found})
        raise MethodError(
            f"{model.description.family}: found no layer for `layers: {layers}`; this model has "
            f"{' and '.join(there) or 'none to prune'}. Choose another value for `layers`."
        )
    for i, found in enumerate(kinds):
        for kind in found:
            if layers in ("all", kind):
                for path in (path for end in ends for path in _PATHS[kind][end]):
                    module = model.get_submodule(f"layers.{i}.{path}")
                    yield Projection(i, path, cast("nn.Linear", module))


def _kinds(spec: Layer) -> list[str]:
    """Name what a layer has, in the order of its forward pass."""
    kinds = []
    if isinstance(spec.mixer, SSD | SelectiveScan):
        kinds.append("ssm")
    elif isinstance(spec.mixer, Attention):
        kinds.append("attention")
    if spec.mlp is not None:
        kinds.append("mlp")
    return kinds


def _parse(pattern: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", pattern)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"found {pattern!r}; expected N:M with 0 < N < M, such as 2:4")
    return int(match[1]), int(match[2])


def _checked(pattern: str) -> str:
    _parse(pattern)
    return pattern


Pattern = Annotated[str, AfterValidator(_checked)]
"""N:M keeps N of every M consecutive inputs of each output."""


def check_pattern(pattern: str | None, ratio: float, found: Iterable[Projection]) -> None:
    """See to it that a pattern can be had, before anything is pruned.

    Raises:
        MethodError: the ratio is not 1 − N/M, or a row is no multiple of M.
    """
    if pattern is None:
        return
    n, m = _parse(pattern)
    if not math.isclose(ratio, 1 - n / m, abs_tol=1e-6):
        raise MethodError(
            f"pattern {pattern}: found ratio {ratio:g}; expected {1 - n / m:g}, which is "
            f"1 - {n}/{m}. Set that ratio, or another pattern."
        )
    for projection in found:
        if projection.module.in_features % m:
            raise MethodError(
                f"{projection.where}: found {projection.module.in_features} inputs; expected a "
                f"multiple of {m} for the pattern {pattern}. Choose another pattern or "
                "`targets`, or leave the pattern out."
            )


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
    return keep_highest(scores, n - n_dropped(n, ratio))


def keep_pattern(scores: Tensor, pattern: str) -> Tensor:
    """Mark the N largest of every M consecutive scores; on ties the lower index stays.

    Args:
        scores: (…, n), n a multiple of M (see `check_pattern`).
        pattern: "N:M".

    Returns:
        (…, n) bool, True = kept.
    """
    n, m = _parse(pattern)
    return keep_highest(scores.unflatten(-1, (-1, m)), n).flatten(-2)


def keep_highest(scores: Tensor, n: int) -> Tensor:
    """Mark the n largest of the last axis; on ties the lower index stays."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    keep = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return keep.scatter_(-1, order[..., :n], value=True)


def apply_mask(weight: Tensor, keep: Tensor) -> None:
    """Set the dropped entries of a weight to zero in place."""
    with torch.no_grad():
        weight.masked_fill_(~keep, 0)


def zero_fraction(model: Decoder, targets: Targets, layers: Layers = "ssm") -> float:
    """Measure the fraction of zeros among the targeted projections' weights."""
    zeros = total = 0
    for projection in projections(model, targets, layers):
        weight = projection.module.weight
        zeros += weight.numel() - int(torch.count_nonzero(weight))
        total += weight.numel()
    return zeros / total
