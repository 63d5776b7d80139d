"""How much each token's own input moves the scan's last output, in closed form.

    Mamba-1   Δy_T(t)[c]    = Δ_t[c] · x_t[c] · Σ_n C_T[n] B_t[n] exp(A[c,n] S_t[c])
    Mamba-2   Δy_T(t)[h,p]  = Δ_t[h] · x_t[h,p] · (Σ_n C_T[g,n] B_t[g,n]) · exp(A[h] S_t[h])

with S_t = Σ_{k>t} Δ'_k, the reverse cumulative sum of the step that decays. A token's score is the
largest over channels. Far tokens' terms underflow in float32, and the ranking must not be left
to ties: so scores are natural logarithms unless `log` is off.

Source: Simba, arXiv:2505.20698, eq. 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbench.kernels.largest import LOG2E, Scan, largest, ranked

if TYPE_CHECKING:
    from collections.abc import Sequence

Aggregate = Literal["max", "absmax", "l2"]

# Elements of one block of tokens × channels × states, which should stay in a core's cache.
BLOCK_ELEMENTS = 1 << 18
# Tokens whose steps one product adds up.
SUM_BLOCK = 16


def steps_after(step: Tensor, lengths: Tensor | None) -> Tensor:
    """Give S_t: the sum of the steps of all later tokens of the row.

    Summed from the end, so that the tokens near it, which matter most, keep their digits; in
    blocks, by a product with a triangle, which is faster than a cumulative sum.

    Args:
        step: (batch, length, channels or heads), ≥ 0, float32 or wider.
        lengths: (batch,) valid positions; None where all are.

    Returns:
        step's shape; 0 at a row's last token and in its padding.
    """
    if lengths is not None:
        valid = torch.arange(step.shape[1], device=step.device) < lengths[:, None]
        step = step * valid[..., None]
    length = step.shape[1]
    first = length % SUM_BLOCK
    blocks = step[:, first:].unflatten(1, (-1, SUM_BLOCK))
    within = step.new_ones(SUM_BLOCK, SUM_BLOCK).triu(1) @ blocks
    sums = within[:, :, :1] + blocks[:, :, :1]
    later = F.pad(sums[:, 1:], (0, 0, 0, 0, 0, 1)).flip(1).cumsum(1).flip(1)
    after: Tensor = within.add_(later).flatten(1, 2)
    if not first:
        return after
    # The shorter block stands at the beginning.
    rest = (sums + later)[:, :1, 0] if length > first else 0
    return torch.cat([step.new_ones(first, first).triu(1) @ step[:, :first] + rest, after], 1)


def at_last(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Take each row's last valid position of (batch, length, …)."""
    if lengths is None:
        return x[:, -1]
    return x[torch.arange(x.shape[0], device=x.device), lengths - 1]


def selective_scan_influence(
    u: Tensor,
    dt: Tensor,
    decay_dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    lengths: Tensor | None = None,
    aggregate: Aggregate = "max",
    log: bool = True,
    n_kept: Sequence[int] | None = None,
) -> Tensor:
    """Score the tokens of Mamba-1 rows.

    Args:
        u: (batch, length, E), what enters the scan.
        dt: (batch, length, E), the step that scales the input.
        decay_dt: (batch, length, E), the step that decays; `dt` itself for the exact equation.
        A: (E, N), < 0.
        B: (batch, length, N).
        C: (batch, length, N); only a row's last position is read.
        lengths: (batch,) valid positions; None where all are.
        aggregate: over the channels: the largest signed, the largest absolute, or the norm.
        log: give logarithms; "max" is then −∞ where no channel's influence is positive.
        n_kept: where given, and only the largest channel's logarithm counts, no more is promised
            than that the best tokens of each row, so many with its last, are its best.

    Returns:
        (batch, length), in u's dtype; what stands in the padding means nothing.
    """
    S = steps_after(decay_dt, lengths)
    CB = B * at_last(C, lengths)[:, None]
    slowest = A.amax(1)
    # Relative to the slowest state, so that no channel's whole sum underflows.
    rates = ((A - slowest[:, None]) * LOG2E).T.contiguous()
    if log and aggregate != "l2":
        u_, dt_, S_, CB_ = (t.flatten(0, 1) for t in (u, dt, S, CB))
        scan = Scan(u_, dt_, S_, CB_, slowest, rates, signed=aggregate == "max")
        if n_kept is None:
            return largest(scan).view(u.shape[:2])
        n_valid = [u.shape[1]] * len(u) if lengths is None else lengths.tolist()
        return ranked(scan, n_valid, n_kept)
    reach = max(1, BLOCK_ELEMENTS // max(1, u.shape[0] * rates.numel()))
    scores = []
    for start in range(0, u.shape[1], reach):
        t = slice(start, start + reach)
        mixed = torch.matmul(CB[:, t, None], torch.exp2(S[:, t, None] * rates))[:, :, 0]
        factor = mixed * (dt[:, t] * u[:, t])
        scores.append(aggregated(factor, S[:, t] * slowest, aggregate, log=log))
    return torch.cat(scores, 1)


def ssd_influence(
    x: Tensor,
    in_weight: Tensor | None,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    lengths: Tensor | None = None,
    aggregate: Aggregate = "max",
    log: bool = True,
) -> Tensor:
    """Score the tokens of Mamba-2 rows, and of its relatives'.

    A head's channels share all factors but x, so their largest is that of x.

    Args:
        x: (batch, length, Hx, P); Hx is H, or G where the heads of a group share x.
        in_weight: (batch, length, H), the step that scales the input; None where it is 1.
        log_decay: (batch, length, H), ≤ 0: A · Δ', or the discrete form's log of its decay.
        B: (batch, length, G, N).
        C: (batch, length, G or H, N); only a row's last position is read.
        lengths: (batch,) valid positions; None where all are.
        aggregate: over heads and channels, as above.
        log: give logarithms.

    Returns:
        (batch, length), in x's dtype; what stands in the padding means nothing.
    """
    heads = log_decay.shape[2]
    after = -steps_after(-log_decay, lengths)
    last = at_last(C, lengths)
    repeats = last.shape[1] // B.shape[2]
    met = torch.einsum("blgn,bgrn->blgr", B, last.unflatten(1, (-1, repeats))).flatten(2)
    weight = met.repeat_interleave(heads // met.shape[2], 2)
    if in_weight is not None:
        weight = weight * in_weight
    extremes = [torch.linalg.vector_norm(x, dim=-1)] if aggregate == "l2" else _extremes(x)
    # Whichever sign the weight has, the largest product is with one of the two.
    spread = heads // x.shape[2]
    terms = [weight * e.repeat_interleave(spread, 2) for e in extremes]
    if aggregate == "absmax":
        terms = [term.abs() for term in terms]
    factor = terms[0] if aggregate == "l2" else torch.maximum(*terms)
    return aggregated(factor, after, aggregate, log=log)


def _extremes(x: Tensor) -> list[Tensor]:
    """Give the largest and the smallest over the last axis, while a block is in the cache."""
    reach = max(1, BLOCK_ELEMENTS // max(1, x[:, :1].numel()))
    found = [(part.amax(-1), part.amin(-1)) for part in x.split(reach, 1)]
    return [torch.cat(parts, 1) for parts in zip(*found, strict=True)]


def aggregated(factor: Tensor, exponent: Tensor, aggregate: Aggregate, *, log: bool) -> Tensor:
    """Fold influences factor · e^exponent over channels.

    Args:
        factor: (batch, length, channels).
        exponent: likewise.
        aggregate: how.
        log: give logarithms.

    Returns:
        (batch, length).
    """
    if not log:
        value = factor * torch.exp(exponent)
        if aggregate == "l2":
            norm: Tensor = torch.linalg.vector_norm(value, dim=-1)
            return norm
        return (value if aggregate == "max" else value.abs()).amax(-1)
    value = factor.abs().log() + exponent
    if aggregate == "l2":
        return (2 * value).logsumexp(-1) / 2
    if aggregate == "max":
        # Not the logarithm of 0, which is slow.
        value.masked_fill_(factor <= 0, -torch.inf)
    return value.amax(-1)
