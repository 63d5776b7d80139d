"""Head removal: whole heads, with everything that is theirs.

A head that shares B and C with others (Mamba-2) goes alone, and every group loses as many, so
that what is left still reads its own group. A group of one head (Phi-Mamba) goes with its B and
C; a group whose heads share x and B (hybrids), or keys and values (attention), goes as a whole.
`unit` overrides this.

Source: the head of "On Pruning State-Space LLMs", arXiv:2502.18886, section 3, which the paper
removes in SSM-FLAP only; here by score, the same number in every layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from ssmbench.surgery import scores, units

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext

VERSION = 1
SOURCE = "the unit of On Pruning State-Space LLMs, arXiv:2502.18886, by score"


class Params(BaseModel, frozen=True, extra="forbid"):
    """What ranks the heads, what counts as one, and which mixers lose some."""

    score: scores.Score = Field(default="fisher", description="What ranks the heads.")
    unit: units.HeadUnit | None = Field(
        default=None,
        description="`head` is one of every group, `group` is a group with all its heads; "
        "by default what the mixer's sharing asks for.",
    )
    layers: units.Mixers = Field(default="ssm", description="Which mixers lose heads.")
    granularity: int = Field(default=1, ge=1, description=units.GRANULARITY)


def needs(params: Params) -> frozenset[str]:
    """Give "calibration" for scores from gradients, "seed" for random ones."""
    return scores.needs(params.score)


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> float:
    """Remove the floor(n · ratio) lowest heads of every group, or groups of every mixer, in place.

    Returns:
        Removed heads or groups / all of them.
    """
    axes = units.axes_of(model, "head", layers=params.layers, head=params.unit)
    return units.remove_lowest(
        model,
        axes,
        ratio=ratio,
        score=params.score,
        context=context,
        granularity=params.granularity,
    )
