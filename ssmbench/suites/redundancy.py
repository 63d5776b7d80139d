"""How alike neighbouring tokens are, layer by layer: the cosine similarity of adjacent ones.

Of each document the first `length` tokens run as one prompt, and each layer's mean over adjacent
tokens is averaged over documents. Of a model that drops tokens, adjacent are those that are
neighbours among the tokens left.

Source: Simba, arXiv:2505.20698, figure 2. Which tensor is compared is not stated there: `residual`
is our reading, the others stand beside it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssmbench.errors import DataError
from ssmbench.suites import _texts

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.suites._context import Context, Result, Row
    from ssmbench.suites._inside import Inside

VERSION = 1
KIND = "quality"

Site = Literal["residual", "mixer", "state"]


class Params(BaseModel):
    """Which documents, and where in a layer to look."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field("pg19", description=f"Documents: {_texts.DATA}")
    n: int = Field(100, ge=1, description="Documents, the first by name.")
    length: int = Field(1000, ge=2, description="Tokens of each; a shorter one is taken whole.")
    sites: tuple[Site, ...] = Field(
        ("residual", "mixer", "state"),
        min_length=1,
        description="What is compared: residual, the stream after the layer; mixer, what its mixer "
        "gives out; state, of its scan.",
    )


def provides(params: Params) -> dict[str, Any]:
    """Give what else makes the numbers: for texts of the user's own, their content."""
    return _texts.provides(params.data)


def files(params: Params, data: Path | None) -> list[Path]:
    """Give the local files that are read."""
    return _texts.files(params.data, data)


def tokens(params: Params, limit: int | None) -> int | None:
    """Estimate the tokens that a model runs over, for the plan's FLOPs."""
    return _texts.count(params.data, params.n, limit) * params.length


def run(context: Context, params: Params) -> Result:
    """Give a row of measure `cosine` for each layer and site; n counts documents."""
    from ssmbench.suites._context import Result
    from ssmbench.suites._inside import look

    found: dict[tuple[int, Site], list[float]] = defaultdict(list)

    def see(inside: Inside) -> None:
        for site in params.sites:
            found[inside.layer, site] += _means(inside, site)

    look(context, "redundancy", data=params.data, n=params.n, length=params.length, see=see)
    if not found:
        raise DataError(f"{params.data}: no document has two tokens; expected texts.")
    layers = range(len(context.model.layers))
    rows = [_row(context.model, i, site, found[i, site]) for i in layers for site in params.sites]
    return Result(layers=rows)


def _means(inside: Inside, site: Site) -> list[float]:
    """Give each row's mean over adjacent tokens; rows of one token give none."""
    from ssmbench.suites import _inside

    if site == "residual":
        values, stage = _inside.neighbours(inside.residual.values), inside.residual.stage
    elif site == "mixer":
        if inside.mixed is None:
            return []
        values, stage = _inside.neighbours(inside.mixed.values), inside.mixed.stage
    else:
        if inside.shown is None:
            return []
        values, stage = _inside.neighbours_of_states(inside.shown), inside.shown.stage
    return [_mean(row[: n - 1]) for row, n in zip(values, stage.lengths, strict=True) if n > 1]


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _row(model: Decoder, layer: int, site: Site, values: list[float]) -> Row:
    from ssmbench.suites._inside import why_no_scan

    spec = model.description.layers[layer]
    reason = None
    if not values:
        reason = "no document has two tokens left here"
        if site == "state" or spec.mixer is None:
            reason = why_no_scan(spec) or reason
    return {
        "layer": layer,
        "measure": "cosine",
        "place": site,
        "value": math.fsum(values) / len(values) if values else None,
        "n": len(values),
        "reason": reason,
    }
