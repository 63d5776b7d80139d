"""Projections that a checkpoint fuses, splits or orders otherwise than our modules do.

A tensor whose shape does not fit is left as it is: the reader names it with both shapes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import Tensor

    from ssmbench.models.description import Description, Mixer
else:
    from ssmbench.lazy import torch

_MIXER = re.compile(r"layers\.(\d+)\.mixer\.(.+)\Z")
_MLP = re.compile(r"(layers\.\d+\.mlp)\.(gate|up|fc1)\.(weight|bias)\Z")


def mixers(
    weights: dict[str, Tensor], description: Description, *suffixes: str
) -> Iterator[tuple[str, Tensor, Mixer]]:
    """Go through the mixers' tensors that are called `suffixes`: name, tensor, its mixer's sizes.

    Layers that the description does not have are passed over.
    """
    for name, tensor in list(weights.items()):
        found = _MIXER.match(name)
        if not found or found[2] not in suffixes:
            continue
        number = int(found[1])
        mixer = description.layers[number].mixer if number < len(description.layers) else None
        if mixer is not None:
            yield name, tensor, mixer


def reordered(rows: Tensor, sizes: Sequence[int], order: Sequence[int]) -> Tensor:
    """Put a tensor's parts, `sizes` long along dimension 0, into another order."""
    if rows.shape[0] != sum(sizes):
        return rows
    parts = rows.split(list(sizes))
    return torch.cat([parts[i] for i in order])


def join_gates(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make each MLP's fc1 = [up | gate] of its `up` and `gate`."""
    joined = {}
    for name, tensor in weights.items():
        found = _MLP.match(name)
        if not found or found[2] == "fc1":
            joined[name] = tensor
            continue
        up, gate = (f"{found[1]}.{part}.{found[3]}" for part in ("up", "gate"))
        if up not in weights or gate not in weights:
            joined[name] = tensor
        elif name == up:
            joined[f"{found[1]}.fc1.{found[3]}"] = torch.cat([tensor, weights[gate]])
    return joined


def split_gates(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `join_gates`."""
    split = {}
    for name, tensor in weights.items():
        found = _MLP.match(name)
        if not found:
            split[name] = tensor
            continue
        for part, half in zip(("up", "gate"), tensor.chunk(2), strict=True):
            split[f"{found[1]}.{part}.{found[3]}"] = half
    return split
