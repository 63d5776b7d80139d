"""Head merging: every m = 1 / (1 − ratio) consecutive heads become their mean.

Where a mixer has more than one group, its groups are merged: what a group shares is averaged,
projection and convolution alike, and its heads stay. That is B and C in Phi-Mamba, x and B in
the hybrids, keys and values in attention. Where it has one group (Mamba-2), its heads are: all
that a head has is averaged, and out_proj's columns are added up, so that equal heads merge
without loss.

Source: "On Pruning State-Space LLMs", arXiv:2502.18886, section 3. Its public code pairs other
heads in the convolution than in the projection, and for Mamba-2 pools channels within a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from ssmbench.errors import MethodError
from ssmbench.surgery import units
from ssmbench.surgery.coupling import Axis, pooled, table

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext

VERSION = 1
SOURCE = "On Pruning State-Space LLMs, arXiv:2502.18886"


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which mixers are merged."""

    layers: units.Mixers = Field(default="ssm", description="Which mixers have heads merged.")


def needs(params: Params) -> frozenset[str]:
    """Merging looks at the weights alone."""
    return frozenset()


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> float:
    """Merge the groups, or the heads, of every mixer that is asked for, in place.

    Returns:
        Groups or heads merged away / all of them.

    Raises:
        MethodError: 1 / (1 − ratio) is not a whole number, or does not divide what is merged.
    """
    from ssmbench.surgery import axes

    size = merged_into_one(ratio)
    found = units.mixers(model, params.layers)
    before = after = 0
    along: dict[int, Axis] = {}
    for layer, sizes in found.items():
        length = table(sizes).length
        axis: Axis = "g" if length["g"] > 1 else "r"
        along[layer] = axis
        before += length[axis]
        try:
            after += table(pooled(sizes, axis, size)).length[axis]
        except MethodError as error:
            raise MethodError(f"{model.description.family}: layer {layer}: {error}") from None
    if size > 1:
        for layer, axis in along.items():
            axes.pool(model, layer, axis, size)
    return (before - after) / before


def merged_into_one(ratio: float) -> int:
    """Give the number of heads that become one: 2 at ratio 0.5, 4 at 0.75.

    Args:
        ratio: 1 − 1/m to three decimals or more, in [0, 1).

    Raises:
        MethodError: the ratio is no 1 − 1/m.
    """
    size = round(1 / (1 - ratio))
    if abs(ratio - (1 - 1 / size)) >= 5e-4 or (size == 1) != (ratio == 0):
        raise MethodError(
            f"ratio {ratio:g}: found 1 / (1 - ratio) = {1 / (1 - ratio):.4g}; expected a whole "
            "number of heads that become one. Set 0.5 (2 become one), 0.75 (4) or 1 - 1/m."
        )
    return size
