"""The model as it is: the baseline that every other cell is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext

VERSION = 1
SOURCE = "no compression"


class Params(BaseModel, frozen=True, extra="forbid"):
    """Dense has no parameters."""


def needs(params: Params) -> frozenset[str]:
    """Give nothing: neither a text nor a seed changes the model."""
    return frozenset()


def compress(
    model: Decoder,
    *,
    ratio: float,
    params: Params,
    context: MethodContext,
) -> None:
    """Leave the model as it is."""
