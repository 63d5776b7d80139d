"""What ranks prompt tokens: Simba's influence and what it is compared with.

Every score is larger for a token to keep. Only the order counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbench.errors import MethodError
from ssmbench.kernels import deletion, dispatch
from ssmbench.models import mixers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.kernels.influence import Aggregate
    from ssmbench.models.reduction import Shown

Bias = Literal["input", "none", "both"]


class Steps(NamedTuple):
    """The step that scales a token's input, and minus the log of its decay or what it is times.

    `weight` is None where the input is not scaled. For Mamba-1 `decay` is Δ', to be multiplied by
    A; for SSD it is −log of the decay itself.
    """

    weight: Tensor | None
    decay: Tensor


def steps(shown: Shown, bias: Bias) -> Steps:
    """Give a layer's steps under a reading of "excluding the bias when computing Ā".

    Source: Simba, arXiv:2505.20698, section 3.2. The discrete form has no bias: all readings agree.
    """
    mixer, raw = shown.mixer, shown.raw
    if isinstance(mixer, mixers.SelectiveScanMixer):
        full = shown.step
        if full is None:
            full = F.softplus(raw + mixer.dt_proj.bias.to(raw.dtype))
        decay = full if bias == "both" else F.softplus(raw)
        return Steps(decay if bias == "none" else full, decay)
    assert isinstance(mixer, mixers.SSDMixer)
    if mixer.dt_bias is None or mixer.A_log is None:
        return Steps(None, F.softplus(raw))
    limits = mixer.sizes.dt_limit
    full = F.softplus(raw + mixer.dt_bias.to(raw.dtype)).clamp(*limits)
    plain = F.softplus(raw).clamp(*limits)
    rate = torch.exp(mixer.A_log.to(raw.dtype))
    return Steps(plain if bias == "none" else full, (full if bias == "both" else plain) * rate)


def by_influence(
    shown: Shown,
    *,
    aggregate: Aggregate = "max",
    bias: Bias = "input",
    log: bool = True,
    n_kept: Sequence[int] | None = None,
) -> Tensor:
    """Give Simba's score, (rows, length): see `kernels.influence`.

    Where `n_kept` is given, no more is promised than which tokens of each row are the best.
    """
    found, lengths = steps(shown, bias), shown.stage.row_lengths
    how: _How = {"lengths": lengths, "aggregate": aggregate, "log": log}
    if isinstance(shown.mixer, mixers.SelectiveScanMixer):
        assert found.weight is not None
        A = _rates(shown.mixer, shown.raw)
        return dispatch.selective_scan_influence(
            shown.x, found.weight, found.decay, A, shown.B, shown.C, n_kept=n_kept, **how
        )
    return dispatch.ssd_influence(shown.x, found.weight, -found.decay, shown.B, shown.C, **how)


def by_deletion(shown: Shown, *, aggregate: Aggregate = "max", log: bool = True) -> Tensor:
    """Give what true deletion would do, (rows, length): see `kernels.deletion`."""
    found, lengths = steps(shown, "both"), shown.stage.row_lengths
    how: _How = {"lengths": lengths, "aggregate": aggregate, "log": log}
    if isinstance(shown.mixer, mixers.SelectiveScanMixer):
        assert found.weight is not None
        A = _rates(shown.mixer, shown.raw)
        return deletion.selective_scan_deletion(
            shown.x, found.weight, A, shown.B, shown.C, state=shown.state, **how
        )
    return deletion.ssd_deletion(
        shown.x, found.weight, -found.decay, shown.B, shown.C, state=shown.state, **how
    )


class _How(TypedDict):
    lengths: Tensor | None
    aggregate: Aggregate
    log: bool


def _rates(mixer: mixers.SelectiveScanMixer, like: Tensor) -> Tensor:
    return -torch.exp(mixer.A_log.to(like.dtype))


def by_dt_norm(shown: Shown) -> Tensor:
    """Give the norm of each token's step over channels or heads.

    Source: DeciMamba, arXiv:2406.14528.
    """
    weight = steps(shown, "both").weight
    if weight is None:
        raise MethodError(
            "dt_norm: found a discrete mixer, whose tokens have no step; expected Mamba-1 or "
            "Mamba-2. Choose another criterion."
        )
    norm: Tensor = torch.linalg.vector_norm(weight, dim=-1)
    return norm


def by_clip_sum(shown: Shown) -> Tensor:
    """Give the sum of each token's positive mixer outputs.

    Source: Zhan et al. 2024, arXiv:2410.14725.

    Raises:
        MethodError: asked before the scan, when there is no output yet.
    """
    if shown.output is None:
        raise MethodError(
            "clip_sum: found the site before the scan, where there is no output to score by; "
            "expected site: after_mixer."
        )
    return shown.output.float().clamp_min(0).sum(-1)


def by_place(shown: Shown) -> Tensor:
    """Give each token's place: the last tokens stay."""
    return shown.stage.places.float()


def by_spacing(shown: Shown, n_kept: Sequence[int]) -> Tensor:
    """Give 1 to tokens evenly spaced from the first to the last, else 0.

    Their places among n are i · (n − 1) / (kept − 1), rounded; a single one is the last.
    """
    scores = torch.zeros(shown.x.shape[:2], device=shown.x.device)
    for row, (n, kept) in enumerate(zip(shown.stage.lengths, n_kept, strict=True)):
        steps = max(1, kept - 1)
        # In whole numbers: ⌊i (n − 1) / steps + ½⌋, which no rounding of floats disturbs.
        places = (2 * (n - 1) * torch.arange(kept) + steps) // (2 * steps)
        scores[row, places.to(scores.device)] = 1
    return scores


def by_chance(shown: Shown, seeds: Sequence[int]) -> Tensor:
    """Give the tokens of each row in an order drawn from the row's own seed."""
    scores = torch.zeros(shown.x.shape[:2])
    for row, (n, seed) in enumerate(zip(shown.stage.lengths, seeds, strict=True)):
        drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        scores[row, :n] = drawn.float()
    return scores.to(shown.x.device)
