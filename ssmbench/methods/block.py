"""Whole mixers go, one at a time: always the one whose removal costs least perplexity.

Source: Muñoz et al. 2025 (Mamba-Shedder), arXiv:2501.17088: training-free, one removal after
another by a score on calibration text. Of its grains this is the whole mixer: a Mamba block with
its norm, or a layer's attention.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from ssmbench.errors import MethodError, NumericalError
from ssmbench.surgery import units

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import Tensor, nn

    from ssmbench.models.decoder import Block, Decoder
    from ssmbench.models.forest import Forest
    from ssmbench.surgery.context import MethodContext
else:
    from ssmbench.lazy import torch

VERSION = 1
SOURCE = "Muñoz et al. 2025, arXiv:2501.17088"


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which mixers may go."""

    layers: units.Mixers = Field(default="ssm", description="Which mixers may go.")


def needs(params: Params) -> frozenset[str]:
    """Say what the result depends on besides the model."""
    return frozenset({"calibration"})


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> float:
    """Remove floor(mixers · ratio) mixers, in place, each the best to miss of those then left.

    The residual stream passes a layer without a mixer unchanged; its MLP stays. Every round runs
    the layers after each candidate over the calibration windows, so the work grows with the
    square of the depth.

    Returns:
        Mixers removed / mixers there were.

    Raises:
        MethodError: the model has no such mixers, the ratio removes none of them, or the windows
            have no token to predict.
        NumericalError: a candidate's perplexity is not a number.
    """
    candidates = list(units.mixers(model, params.layers))
    if ratio == 0:
        return 0.0
    total, rounds = units.count(
        len(candidates), ratio, units="mixers", where=model.description.family
    )
    windows = context.windows()
    if windows.shape[1] < 2:
        raise MethodError(
            f"block: found calibration windows of {windows.shape[1]} token; expected at least 2, "
            "of which the second is predicted. Set `calibration: {length: 128}`."
        )
    for done in range(rounds):
        context.report("compress: block", done, rounds)
        nats = removal_nats(model, windows, candidates, batch_tokens=context.batch_tokens)
        # On ties the lower layer goes.
        best = candidates[nats.index(min(nats))]
        context.remove_mixer(model, best)
        candidates.remove(best)
    return rounds / total


def removal_nats(
    model: Decoder, windows: Tensor, candidates: Sequence[int], *, batch_tokens: int
) -> list[float]:
    """Sum the nats of predicting each next token, for the model without each candidate's mixer.

    What enters a layer is computed once; a candidate's removal re-runs only what comes after.

    Args:
        model: in evaluation mode.
        windows: (samples, length) int64, length at least 2.
        candidates: layers that have a mixer.
        batch_tokens: positions that run at once.

    Returns:
        One sum for each candidate; the same tokens are predicted for all, so that these order
        as perplexities do.

    Raises:
        NumericalError: a sum is not a number.
    """
    from ssmbench.models.decoder import Block
    from ssmbench.surgery.statistics import batches, summed_nats

    nats = dict.fromkeys(candidates, 0.0)
    inputs, targets = windows[:, :-1], windows[:, 1:].to(model.device)
    start = 0
    with torch.no_grad():
        for forest in batches(model, inputs, batch_tokens=batch_tokens):
            rows = len(forest.stages[0].lengths)
            wanted = targets[start : start + rows].flatten()
            start += rows
            h = model.embedding(forest.tokens).float()
            for i, block in enumerate(model.layers):
                assert isinstance(block, Block)
                if i in nats:
                    with _without_mixer(block):
                        after = _run(model.layers[i:], h, forest)
                    nats[i] += summed_nats(model, after, wanted)
                h, _ = block(h, forest, None)
    for i, value in nats.items():
        if math.isnan(value):
            raise NumericalError(
                f"layers.{i}: found a perplexity that is not a number without this mixer; "
                "expected a number. Does the whole model give finite logits?"
            )
    return list(nats.values())


def _run(layers: nn.ModuleList, h: Tensor, forest: Forest) -> Tensor:
    for block in layers:
        h, _ = block(h, forest, None)
    return h


@contextmanager
def _without_mixer(block: Block) -> Iterator[None]:
    """Let a block pass its input by its mixer, as if that had been removed."""
    mixer = block.mixer
    block.mixer = None
    try:
        yield
    finally:
        block.mixer = mixer
