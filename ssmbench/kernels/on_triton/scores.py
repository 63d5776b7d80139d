"""Simba's scores: the logarithm of each token's largest influence over the channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbench.kernels.influence import at_last, steps_after
from ssmbench.kernels.largest import LOG2E
from ssmbench.kernels.on_triton.launching import TYPES, dense_last, shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.kernels.influence import Aggregate


@triton.jit
def _log_or_least(size):
    """Give the logarithm, and −∞ of 0; a NaN stays one."""
    positive = size > 0
    found = tl.log(tl.where(positive, size, 1.0))
    return tl.where(positive, found, tl.where(size == size, float("-inf"), float("nan")))


@triton.jit
def _largest(value):
    """Give each row's largest value, and NaN where it has one."""
    wrong = value != value
    found = tl.max(tl.where(wrong, float("-inf"), value), 1)
    return tl.where(tl.max(wrong.to(tl.int32), 1) > 0, float("nan"), found)


@triton.jit
def selective_scan_influence_kernel(
    u, dt, after, CB, slowest, rates, out, tokens, E, N, share, u_t, dt_t, after_t,
    SIGNED: tl.constexpr, BT: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Take BT tokens' largest logarithm over a share of the channels: program (tokens, share).

    CB (tokens, N), rates (N, E) in powers of two and relative to the slowest, and out (shares,
    tokens) are contiguous.
    """
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    first = tl.program_id(1) * share
    of_t = t < tokens
    row = t.to(tl.int64)
    best = tl.full((BT,), float("-inf"), tl.float32)
    for begin in range(first, tl.minimum(first + share, E), BE):
        e = begin + tl.arange(0, BE)
        of_e = e < E
        of_te = of_t[:, None] & of_e[None, :]
        S = tl.load(after + row[:, None] * after_t + e[None, :], mask=of_te, other=0.0)
        mixed = tl.zeros((BT, BE), tl.float32)
        for n in range(N):
            met = tl.load(CB + row * N + n, mask=of_t, other=0.0).to(tl.float32)
            rate = tl.load(rates + n * E + e, mask=of_e, other=0.0)
            mixed += met[:, None] * tl.exp2(S * rate[None, :])
        u_ = tl.load(u + row[:, None] * u_t + e[None, :], mask=of_te, other=0.0).to(tl.float32)
        dt_ = tl.load(dt + row[:, None] * dt_t + e[None, :], mask=of_te, other=0.0).to(tl.float32)
        size = mixed * u_ * dt_
        if not SIGNED:
            size = tl.abs(size)
        value = _log_or_least(size) + S * tl.load(slowest + e, mask=of_e, other=0.0)[None, :]
        value = tl.where(of_e[None, :], value, float("-inf"))
        best = tl.maximum(best, _largest(value), propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + tl.program_id(1) * tokens + t, best, mask=of_t)


@triton.jit
def ssd_influence_kernel(
    x, weight, after, out, tokens, H, P, share, heads_per_x, x_t, x_h,
    SIGNED: tl.constexpr, BT: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Take BT tokens' largest logarithm over a share of the heads: program (tokens, share).

    weight and after (tokens, H) and out (shares, tokens) are contiguous.
    """
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    first = tl.program_id(1) * share
    p = tl.arange(0, BP)
    of_t = t < tokens
    of_p = (p < P)[None, :]
    row = t.to(tl.int64)
    best = tl.full((BT,), float("-inf"), tl.float32)
    for h in range(first, tl.minimum(first + share, H)):
        at = x + row[:, None] * x_t + (h // heads_per_x) * x_h + p[None, :]
        x_ = tl.load(at, mask=of_t[:, None] & of_p, other=0.0).to(tl.float32)
        met = tl.load(weight + row * H + h, mask=of_t, other=0.0)
        size = x_ * met[:, None]
        if not SIGNED:
            size = tl.abs(size)
        size = _largest(tl.where(of_p, size, float("-inf")))
        value = _log_or_least(size) + tl.load(after + row * H + h, mask=of_t, other=0.0)
        best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + tl.program_id(1) * tokens + t, best, mask=of_t)


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
) -> Tensor | None:
    """Score Mamba-1 tokens in float32: see `kernels.influence`; logarithms, but not of a norm.

    Every token gets its score, whatever `n_kept` is: each is a program of its own.
    """
    del n_kept
    rows, length, channels = u.shape
    if u.dtype not in TYPES or not log or aggregate == "l2" or not length:
        return None
    after = steps_after(decay_dt.float(), lengths)
    CB = (B.float() * at_last(C, lengths).float()[:, None]).flatten(0, 1)
    slowest = A.float().amax(1)
    rates = ((A.float() - slowest[:, None]) * LOG2E).T.contiguous()
    u, dt, after = (dense_last(t.flatten(0, 1)) for t in (u, dt, after))
    tokens = len(u)
    bt = min(16, triton.next_power_of_2(tokens))
    be = min(64, triton.next_power_of_2(channels))
    n_shares, share = shares(tokens, bt, channels, be)
    out = u.new_empty(n_shares, tokens, dtype=torch.float32)
    selective_scan_influence_kernel[triton.cdiv(tokens, bt), n_shares](
        u, dt, after, CB.contiguous(), slowest, rates, out, tokens, channels, A.shape[1], share,
        u.stride(0), dt.stride(0), after.stride(0),
        SIGNED=aggregate == "max", BT=bt, BE=be,
    )  # fmt: skip
    return out.amax(0).view(rows, length)


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
) -> Tensor | None:
    """Score SSD tokens in float32: see `kernels.influence`; logarithms, but not of a norm.

    x, the one large input, is read once.
    """
    rows, length, heads_x, p = x.shape
    heads = log_decay.shape[2]
    if x.dtype not in TYPES or not log or aggregate == "l2" or not length:
        return None
    last = at_last(C, lengths).float()
    repeats = last.shape[1] // B.shape[2]
    met = torch.einsum("blgn,bgrn->blgr", B.float(), last.unflatten(1, (-1, repeats))).flatten(2)
    weight = met.repeat_interleave(heads // met.shape[2], 2)
    if in_weight is not None:
        weight = weight * in_weight
    after = -steps_after(-log_decay.float(), lengths)
    x = dense_last(x.flatten(0, 1))
    tokens = len(x)
    bp = triton.next_power_of_2(p)
    bt = max(1, min(16, 1024 // bp))
    n_shares, share = shares(tokens, bt, heads, 1)
    out = x.new_empty(n_shares, tokens, dtype=torch.float32)
    ssd_influence_kernel[triton.cdiv(tokens, bt), n_shares](
        x, weight.flatten(0, 1).contiguous(), after.flatten(0, 1).contiguous(), out,
        tokens, heads, p, share, heads // heads_x, x.stride(0), x.stride(1),
        SIGNED=aggregate == "max", BT=bt, BP=bp,
    )  # fmt: skip
    return out.amax(0).view(rows, length)
