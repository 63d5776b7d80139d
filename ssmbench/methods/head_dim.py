"""Head-dim pruning: channels leave x, z, their convolution, gate bias, norm and out_proj together.

Each head of x chooses its own channels, and loses as many as the others; in the hybrids, whose
heads share x, each group of heads does. Mamba-1 is one head, whose channels are d_inner.

Source: "On Pruning State-Space LLMs", arXiv:2502.18886, section 3. Its public code chooses for x,
z and out_proj separately, so that what is left does not belong together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from ssmbench.surgery import scores, units

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext

VERSION = 1
SOURCE = "On Pruning State-Space LLMs, arXiv:2502.18886"


class Params(BaseModel, frozen=True, extra="forbid"):
    """What ranks the channels."""

    score: scores.Score = Field(default="fisher", description="What ranks the channels.")
    granularity: int = Field(default=1, ge=1, description=units.GRANULARITY)


def needs(params: Params) -> frozenset[str]:
    """Give "calibration" for scores from gradients, "seed" for random ones."""
    return scores.needs(params.score)


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> float:
    """Remove the floor(n · ratio) lowest channels of every x head of every SSM mixer, in place.

    Returns:
        Removed channels / all channels of x.
    """
    axes = units.axes_of(model, "head_dim")
    return units.remove_lowest(
        model,
        axes,
        ratio=ratio,
        score=params.score,
        context=context,
        granularity=params.granularity,
    )
