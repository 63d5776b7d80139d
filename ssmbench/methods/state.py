"""State pruning: whole states leave B, C and their convolution together.

A group's states are its own to choose; every group loses the same number. In the hybrids a state
is B's row of a group with the C rows of all the group's heads, which meet it. Nothing else is
touched: not z, x, the decay, the norm or out_proj.

Source: "On Pruning State-Space LLMs", arXiv:2502.18886, section 3. The paper's text also prunes
out_proj, which its public code rightly does not; that code leaves the hybrid's B as it is.
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
    """What ranks the states."""

    score: scores.Score = Field(default="fisher", description="What ranks the states.")
    granularity: int = Field(default=1, ge=1, description=units.GRANULARITY)


def needs(params: Params) -> frozenset[str]:
    """Give "calibration" for scores from gradients, "seed" for random ones."""
    return scores.needs(params.score)


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> float:
    """Remove the floor(n · ratio) lowest states of every group of every SSM mixer, in place.

    Returns:
        Removed states / all states.
    """
    axes = units.axes_of(model, "state")
    return units.remove_lowest(
        model,
        axes,
        ratio=ratio,
        score=params.score,
        context=context,
        granularity=params.granularity,
    )
