"""How many prompt tokens each layer processes; no torch.

Source: Simba, arXiv:2505.20698, section 3.2 ("the number of active tokens is linearly reduced
across all layers"); power and geometric are ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection

Shape = Literal["linear", "linear_out", "power", "geometric"]


def fraction(layer: int, n_layers: int, *, ratio: float, shape: Shape, power: float = 1.0) -> float:
    """Give the fraction of the prompt that a layer processes, with u = l/(L−1) and k = 1 − ratio.

        linear      1 − (1 − k) u      the last layer processes k
        linear_out  1 − (1 − k) l/L    k is what leaves the last layer
        power       1 − (1 − k) u^p
        geometric   k^u

    Args:
        layer: l, from 0.
        n_layers: L.
        ratio: fraction of the prompt gone at the end, in [0, 1).
        shape: which.
        power: p, above 0.
    """
    u = layer / max(1, n_layers - 1)
    match shape:
        case "linear":
            return 1 - ratio * u
        case "linear_out":
            return 1 - ratio * layer / n_layers
        case "power":
            return float(1 - ratio * u**power)
        case "geometric":
            return float((1 - ratio) ** u)


def counts(
    tokens: int,
    n_layers: int,
    *,
    ratio: float,
    shape: Shape = "linear",
    power: float = 1.0,
    every: int = 1,
) -> tuple[int, ...]:
    """Give how many of a prompt's tokens each layer processes, from the first to the last.

    Rounded from the formula itself at each layer, so that nothing accumulates.

    Args:
        tokens: of the prompt.
        n_layers: layers of the model.
        ratio: fraction gone at the end.
        shape: see `fraction`.
        power: see `fraction`.
        every: the count changes at layers divisible by this alone.
    """
    fractions = (
        fraction(i // every * every, n_layers, ratio=ratio, shape=shape, power=power)
        for i in range(n_layers)
    )
    return tuple(max(min(tokens, 1), math.floor(tokens * f + 0.5)) for f in fractions)


def anchored(
    tokens: int, n_layers: int, *, ratio: float, anchors: Collection[int]
) -> tuple[int, ...]:
    """Give how many of a prompt's tokens each layer processes where few layers drop any.

    After the j-th of J anchors, k^(j/J) of the prompt is left, with k = 1 − ratio; but an anchor
    never drops more than half of what it sees, so that rounding may leave a token more.

    Args:
        tokens: of the prompt.
        n_layers: layers of the model.
        ratio: fraction gone at the end.
        anchors: layers after which tokens are dropped.
    """
    counts, n, passed = [], tokens, 0
    for layer in range(n_layers):
        counts.append(n)
        if layer in anchors:
            passed += 1
            left = tokens * (1 - ratio) ** (passed / len(anchors))
            n = max(n - n // 2, math.floor(left + 0.5))
    return tuple(counts)
