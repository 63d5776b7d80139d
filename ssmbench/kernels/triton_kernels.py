"""Triton kernels of the scans, the convolution and Simba's scores; forward only.

Only `ssmbench.kernels.on_triton` imports this module, and no other imports triton. Products are
sums of float32 products, never tensor cores' tf32, so that a float32 model keeps its digits.
Whether a kernel is compiled or interpreted (TRITON_INTERPRET=1) is settled at import.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def selective_scan_kernel(
    u, dt, A, B, C, D, entering, y, leaving, total,
    length, E, N, reach,
    u_b, u_t, dt_b, dt_t, B_b, B_t, C_b, C_t, in_b, in_c, in_e, in_n,
    HAS_D: tl.constexpr, HAS_STATE: tl.constexpr, GIVES_Y: tl.constexpr,
    GIVES_STATE: tl.constexpr, GIVES_TOTAL: tl.constexpr,
    BE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Scan one chunk of one row for BE channels: program (channels, chunk, row).

    y (rows, length, E), leaving (rows, chunks, E, N) and total (rows, chunks, E), the chunk's sum
    of steps, are contiguous; channels and states of the inputs are.
    """
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    chunk = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, BN)
    of_e, of_n = e < E, n < N
    of_en = of_e[:, None] & of_n[None, :]
    rates = tl.load(A + e[:, None] * N + n[None, :], mask=of_en, other=0.0) * LOG2E
    if HAS_D:
        skip = tl.load(D + e, mask=of_e, other=0.0)
    if HAS_STATE:
        at = entering + row * in_b + chunk * in_c + e[:, None] * in_e + n[None, :] * in_n
        h = tl.load(at, mask=of_en, other=0.0).to(tl.float32)
    else:
        h = tl.zeros((BE, BN), tl.float32)
    summed = tl.zeros((BE,), tl.float32)
    start = chunk * reach
    for t in range(start, tl.minimum(start + reach, length)):
        u_ = tl.load(u + row * u_b + t * u_t + e, mask=of_e, other=0.0).to(tl.float32)
        dt_ = tl.load(dt + row * dt_b + t * dt_t + e, mask=of_e, other=0.0).to(tl.float32)
        B_ = tl.load(B + row * B_b + t * B_t + n, mask=of_n, other=0.0).to(tl.float32)
        h = h * tl.exp2(dt_[:, None] * rates) + (dt_ * u_)[:, None] * B_[None, :]
        if GIVES_Y:
            C_ = tl.load(C + row * C_b + t * C_t + n, mask=of_n, other=0.0).to(tl.float32)
            out = tl.sum(h * C_[None, :], 1)
            if HAS_D:
                out += u_ * skip
            at_y = y + (row * length + t) * E + e
            tl.store(at_y, out.to(y.dtype.element_ty), mask=of_e)
        if GIVES_TOTAL:
            summed += dt_
    place = row * tl.num_programs(1) + chunk
    if GIVES_STATE:
        at = leaving + place * E * N + e[:, None] * N + n[None, :]
        tl.store(at, h, mask=of_en)
    if GIVES_TOTAL:
        tl.store(total + place * E + e, summed, mask=of_e)


@triton.jit
def state_passing_kernel(
    A, own, total, entering, leaving, E, N, chunks, in_b, in_e, in_n,
    HAS_STATE: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Turn what each chunk leaves by itself into what enters it: program (channels, row).

    own (rows, chunks, E, N) is overwritten by the entering states.
    """
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    row = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, BN)
    of_e = e < E
    of_en = of_e[:, None] & (n < N)[None, :]
    inner = e[:, None] * N + n[None, :]
    rates = tl.load(A + inner, mask=of_en, other=0.0) * LOG2E
    if HAS_STATE:
        at = entering + row * in_b + e[:, None] * in_e + n[None, :] * in_n
        h = tl.load(at, mask=of_en, other=0.0).to(tl.float32)
    else:
        h = tl.zeros((BE, BN), tl.float32)
    for chunk in range(chunks):
        place = row * chunks + chunk
        added = tl.load(own + place * E * N + inner, mask=of_en, other=0.0)
        tl.store(own + place * E * N + inner, h, mask=of_en)
        steps = tl.load(total + place * E + e, mask=of_e, other=0.0)
        h = h * tl.exp2(steps[:, None] * rates) + added
    tl.store(leaving + row * E * N + inner, h, mask=of_en)


@triton.jit
def short_ssd_kernel(
    x, log_decay, weight, B, C, D, entering, y, leaving,
    length, P, N, heads_per_group,
    x_b, x_t, x_h, d_b, d_t, w_b, w_t, B_b, B_t, B_g, C_b, C_t, C_g, in_b, in_h, in_p, in_n,
    HAS_WEIGHT: tl.constexpr, HAS_D: tl.constexpr, HAS_STATE: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Step through a short row, its state in registers: program (channels, head, row).

    y (rows, length, H, P) and leaving (rows, H, P, N) are contiguous.
    """
    p = tl.program_id(0) * BP + tl.arange(0, BP)
    h = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, BN)
    of_p, of_n = p < P, n < N
    of_pn = of_p[:, None] & of_n[None, :]
    heads = tl.num_programs(1)
    if HAS_STATE:
        at = entering + row * in_b + h * in_h + p[:, None] * in_p + n[None, :] * in_n
        S = tl.load(at, mask=of_pn, other=0.0).to(tl.float32)
    else:
        S = tl.zeros((BP, BN), tl.float32)
    if HAS_D:
        skip = tl.load(D + h)
    for t in range(length):
        x_ = tl.load(x + row * x_b + t * x_t + h * x_h + p, mask=of_p, other=0.0).to(tl.float32)
        at_B = B + row * B_b + t * B_t + (h // heads_per_group) * B_g + n
        at_C = C + row * C_b + t * C_t + (h // heads_per_group) * C_g + n
        B_ = tl.load(at_B, mask=of_n, other=0.0).to(tl.float32)
        C_ = tl.load(at_C, mask=of_n, other=0.0).to(tl.float32)
        kept = tl.exp2(tl.load(log_decay + row * d_b + t * d_t + h) * LOG2E)
        entered = x_
        if HAS_WEIGHT:
            entered = x_ * tl.load(weight + row * w_b + t * w_t + h)
        S = S * kept + entered[:, None] * B_[None, :]
        out = tl.sum(S * C_[None, :], 1)
        if HAS_D:
            out += x_ * skip
        at_y = y + ((row * length + t) * heads + h) * P + p
        tl.store(at_y, out.to(y.dtype.element_ty), mask=of_p)
    at = leaving + ((row * heads + h) * P + p[:, None]) * N + n[None, :]
    tl.store(at, S, mask=of_pn)


@triton.jit
def causal_conv_kernel(
    x, weight, bias, tail, y, length, channels, x_b, x_t, w_c, w_k, tail_b, tail_t,
    HAS_BIAS: tl.constexpr, HAS_TAIL: tl.constexpr, K: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Convolve BT positions of BC channels: program (channels, positions, row); y contiguous."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    row = tl.program_id(2).to(tl.int64)
    of_c = c < channels
    of_tc = (t < length)[:, None] & of_c[None, :]
    out = tl.zeros((BT, BC), tl.float32)
    if HAS_BIAS:
        out += tl.load(bias + c, mask=of_c, other=0.0).to(tl.float32)[None, :]
    for j in tl.static_range(0, K):
        tap = tl.load(weight + c * w_c + j * w_k, mask=of_c, other=0.0).to(tl.float32)
        at = t + (j + 1 - K)
        present = of_tc & (at >= 0)[:, None]
        seen = tl.load(x + row * x_b + at[:, None] * x_t + c[None, :], mask=present, other=0.0)
        if HAS_TAIL:
            before = of_tc & (at < 0)[:, None]
            place = (at + (K - 1))[:, None]
            seen += tl.load(
                tail + row * tail_b + place * tail_t + c[None, :], mask=before, other=0.0
            )
        out += seen.to(tl.float32) * tap[None, :]
    at_y = y + (row * length + t[:, None]) * channels + c[None, :]
    tl.store(at_y, out.to(y.dtype.element_ty), mask=of_tc)


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


@triton.jit
def gate_kernel(
    y, z, weight, out, E, size, eps, y_t, z_t, NORMS: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Gate one token's group of channels, and scale it to unit RMS: program (token, group).

    out (tokens, E) is contiguous, channels of the inputs are.
    """
    token = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * size + tl.arange(0, BE)
    of_e = tl.arange(0, BE) < size
    y_ = tl.load(y + token * y_t + e, mask=of_e, other=0.0).to(tl.float32)
    z_ = tl.load(z + token * z_t + e, mask=of_e, other=0.0).to(tl.float32)
    gated = y_ * z_ / (1.0 + tl.exp(-z_))
    if NORMS:
        inverse = 1.0 / tl.sqrt(tl.sum(gated * gated, 0) / size + eps)
        gated = gated * inverse * tl.load(weight + e, mask=of_e, other=0.0).to(tl.float32)
    tl.store(out + token * E + e, gated.to(out.dtype.element_ty), mask=of_e)
