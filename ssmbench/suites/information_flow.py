"""How much of a layer's last output comes from where in the text: Simba's score over its size.

Of each document the first `length` tokens run as one prompt. A token's score, its influence on
the scan's output at the last token, is divided by the norm of that output (before D and gate), and
averaged over the tokens of each of five equal parts of the document. Of a model that drops tokens,
those count that are left, where they stood at first; of one that runs prompts in chunks, each
chunk is taken for a document.

Source: Simba, arXiv:2505.20698, figure 5.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssmbench.errors import DataError
from ssmbench.suites import _texts

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.models.decoder import Decoder
    from ssmbench.suites._context import Context, Result, Row
    from ssmbench.suites._inside import Inside

VERSION = 1
KIND = "quality"


class Params(BaseModel):
    """Which documents, in how many parts, and the score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field("pg19", description=f"Documents: {_texts.DATA}")
    n: int = Field(100, ge=1, description="Documents, the first by name.")
    length: int = Field(1000, ge=2, description="Tokens of each; a shorter one is taken whole.")
    bins: int = Field(5, ge=1, description="Equal parts of a document.")
    aggregate: Literal["max", "absmax", "l2"] = Field(
        "max", description="The score over channels, as in the method simba."
    )
    bias: Literal["input", "none", "both"] = Field(
        "input", description="Which of the score's steps have the step's bias, as there."
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
    """Give a row of measure `influence` for each layer and part; n counts tokens."""
    from ssmbench.suites._context import Result
    from ssmbench.suites._inside import look

    sums: dict[tuple[int, int], float] = defaultdict(float)
    n: dict[tuple[int, int], int] = defaultdict(int)
    seen: set[int] = set()

    def see(inside: Inside) -> None:
        seen.add(inside.layer)
        if inside.shown is None:
            return
        for part, values in enumerate(_parts(inside, params)):
            sums[inside.layer, part] += float(values.sum())
            n[inside.layer, part] += len(values)

    look(context, "information flow", data=params.data, n=params.n, length=params.length, see=see)
    if not seen:
        raise DataError(f"{params.data}: no document has two tokens; expected texts.")
    rows = [
        _row(context.model, layer, part, params.bins, sums[layer, part], n[layer, part])
        for layer in range(len(context.model.layers))
        for part in range(params.bins)
    ]
    return Result(layers=rows)


def _parts(inside: Inside, params: Params) -> list[Any]:
    """Give for each part of the documents the relative scores of its tokens, (tokens,)."""
    import torch

    from ssmbench.suites._inside import last_output
    from ssmbench.surgery.token_scores import by_influence

    shown = inside.shown
    assert shown is not None
    stage = shown.stage
    # By logarithms in float64: the first tokens' shares are beyond float32.
    scores = by_influence(shown, aggregate=params.aggregate, bias=params.bias, log=True)
    size = torch.linalg.vector_norm(last_output(inside).double(), dim=-1)
    relative = (scores.double() - size.log()[:, None]).exp()
    lengths = torch.tensor(stage.lengths, device=scores.device)
    spans = torch.tensor(stage.spans or stage.lengths, device=scores.device)
    valid = torch.arange(stage.length, device=scores.device) < lengths[:, None]
    part = stage.places * params.bins // spans[:, None]
    return [relative[valid & (part == k)] for k in range(params.bins)]


def _row(model: Decoder, layer: int, part: int, parts: int, total: float, n: int) -> Row:
    from ssmbench.suites._inside import why_no_scan

    reason = None
    if not n:
        reason = why_no_scan(model.description.layers[layer]) or "no token of this part is left"
    return {
        "layer": layer,
        "measure": "influence",
        "place": f"{part / parts:.2g}-{(part + 1) / parts:.2g}",
        "value": total / n if n else None,
        "n": n,
        "reason": reason,
    }
