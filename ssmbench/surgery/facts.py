"""What a compressed model is, in numbers that need no data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssmbench.models import flops, token_flops
from ssmbench.models.description import Attention, Description

if TYPE_CHECKING:
    from torch import nn

    from ssmbench.models.decoder import Decoder

TOKENS = 512
"""Positions of the forward pass that FLOPs are counted for, and of the keys and values held."""


def measure(model: Decoder, dense: Description) -> dict[str, int | float | None]:
    """Give the size and cost columns of the `cells` table.

    Compression is exact, by stored parameters: 1 − after / before; beside it stands Comp. as "On
    Pruning State-Space LLMs" rounds it. A model without SSM mixers has null where a fraction of
    them is asked; a layer whose mixer was removed counts as nothing. Where tokens are dropped,
    FLOPs are those of a prompt that loses them, by each of its tokens, dropped or not.
    """
    # Convolutions and attention keep what projections gave them.
    itemsize = model.compute_dtype.itemsize
    after, before = flops.parameters(model.description), flops.parameters(dense)
    mixers: list[nn.Module] = [
        block.get_submodule("mixer")
        for block, spec in zip(model.layers, model.description.layers, strict=True)
        if spec.mixer is not None and not isinstance(spec.mixer, Attention)
    ]
    drop = model.reducer.drop if model.reducer else None
    prefill = token_flops.count(model.description, prompt=TOKENS, drop=drop)
    nonzero = sum(int(p.count_nonzero()) for m in mixers for p in m.parameters())
    return {
        "params_model": after.model,
        "params_mixer": after.mixer,
        "params_model_dense": before.model,
        "params_mixer_dense": before.mixer,
        "nonzero_mixer": nonzero,
        "compression_mixer": 1 - after.mixer / before.mixer if before.mixer else None,
        "compression_paper_percent": paper_percent(before.mixer, after.mixer),
        "compression_model": 1 - after.model / before.model,
        "state_bytes": flops.state_bytes(model.description, tokens=TOKENS, itemsize=itemsize),
        "state_bytes_dense": flops.state_bytes(dense, tokens=TOKENS, itemsize=itemsize),
        "flops_per_token": prefill.total("all") / TOKENS,
        "flops_per_token_dense": flops.forward_flops(dense, tokens=TOKENS) / TOKENS,
    }


def paper_percent(before: int, after: int) -> int | None:
    """Give the paper's Comp.: what is gone, in whole percent, the rest having been cut to that.

    Args:
        before: parameters of the uncompressed model's SSM mixers.
        after: of the compressed model's.

    Returns:
        100 − ⌊100 · after / before⌋; None where there was nothing.

    Source: arXiv:2502.18886, tables 1 and 2: 20 of their 32 values that are not zero follow
    this rule exactly.
    """
    return 100 - 100 * after // before if before else None
