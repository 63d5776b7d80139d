"""How the scan's last output would change, had a token never been: true deletion, for all at once.

    y_T − y_T^{without t} = C_T (∏_{k>t} Ā_k) (h_t − h_{t−1})

Influence (`kernels.influence`) takes away a token's input and leaves its decay of what came before;
deletion takes away both. It needs the states of all positions, so its cost is a scan's: one more,
read out with C_T, for Mamba-2, and about two for Mamba-1, whose decays differ by state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmbench.kernels.influence import Aggregate, aggregated, at_last, steps_after
from ssmbench.kernels.largest import LOG2E
from ssmbench.kernels.selective_scan import STEPS
from ssmbench.kernels.ssd import ssd


def selective_scan_deletion(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    lengths: Tensor | None = None,
    aggregate: Aggregate = "max",
    log: bool = True,
    state: Tensor | None = None,
) -> Tensor:
    """Score the tokens of Mamba-1 rows.

    Args:
        u: (batch, length, E), what enters the scan.
        dt: (batch, length, E), the step, ≥ 0.
        A: (E, N), < 0.
        B: (batch, length, N).
        C: (batch, length, N); only a row's last position is read.
        lengths: (batch,) valid positions; None where all are.
        aggregate: over channels: the largest signed, the largest absolute, or the norm.
        log: give logarithms.
        state: (batch, E, N) before the first position; None stands for zeros.

    Returns:
        (batch, length), in u's dtype; what stands in the padding means nothing.
    """
    S = steps_after(dt, lengths)
    At, slowest = A.T, A.amax(1)
    last = at_last(C, lengths)[:, None, None]
    h = u.new_zeros(u.shape[0], *At.shape) if state is None else state.transpose(1, 2)
    du, mixed = dt * u, torch.empty_like(u)
    for start in range(0, u.shape[1], STEPS):
        span = slice(start, start + STEPS)
        grown = torch.expm1(dt[:, span, None] * At)
        change = du[:, span, None] * B[:, span, :, None]
        for t in range(change.shape[1]):
            change[:, t].addcmul_(grown[:, t], h)
            h = h + change[:, t]
        # Relative to the slowest state, so that no channel's whole sum underflows.
        change *= torch.exp2(S[:, span, None] * ((At - slowest) * LOG2E))
        mixed[:, span] = torch.matmul(last, change)[:, :, 0]
    return aggregated(mixed, S * slowest, aggregate, log=log)


def ssd_deletion(
    x: Tensor,
    in_weight: Tensor | None,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    lengths: Tensor | None = None,
    aggregate: Aggregate = "max",
    log: bool = True,
    state: Tensor | None = None,
) -> Tensor:
    """Score the tokens of Mamba-2 rows, and of its relatives'.

    Args:
        x: (batch, length, Hx, P); Hx is H, or G where the heads of a group share x.
        in_weight: (batch, length, H), the step that scales the input; None where it is 1.
        log_decay: (batch, length, H), ≤ 0.
        B: (batch, length, G, N).
        C: (batch, length, G or H, N); only a row's last position is read.
        lengths: (batch,) valid positions; None where all are.
        aggregate: over heads and channels, as above.
        log: give logarithms.
        state: (batch, H, P, N) before the first position; None stands for zeros.

    Returns:
        (batch, length), in x's dtype; what stands in the padding means nothing.
    """
    heads = log_decay.shape[2]
    last = at_last(C, lengths)
    x = x.repeat_interleave(heads // x.shape[2], 2)
    B = B.repeat_interleave(last.shape[1] // B.shape[2], 2)
    everywhere = last[:, None].expand_as(B)
    read, _ = ssd(x, log_decay, in_weight, B, everywhere, state=state)
    if state is None:
        entering = torch.zeros_like(read[:, 0])
    else:
        heads_last = last.repeat_interleave(heads // last.shape[1], 1)
        entering = torch.matmul(state, heads_last[..., None])[..., 0]
    before = torch.cat([entering[:, None], read[:, :-1]], 1)
    met = (B * everywhere).sum(-1).repeat_interleave(heads // B.shape[2], 2)
    if in_weight is not None:
        met = met * in_weight
    # h_t − h_{t−1} as (Ā − 1) h_{t−1} + B̄ x: the difference itself would lose its digits.
    change = met[..., None] * x + torch.expm1(log_decay)[..., None] * before
    after = -steps_after(-log_decay, lengths)
    exponent = after[..., None].expand_as(change).flatten(2)
    return aggregated(change.flatten(2), exponent, aggregate, log=log)
