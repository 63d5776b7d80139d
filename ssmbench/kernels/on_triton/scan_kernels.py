"""Kernels of the selective scan of Mamba-1, forward and backward."""

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
    HAS_STATE: tl.constexpr, BACKWARD: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Turn what each chunk leaves by itself into what enters it: program (channels, row).

    own (rows, chunks, E, N) is overwritten by the entering states; backward, by their gradients,
    which enter at the last chunk.
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
        place = row * chunks + (chunks - 1 - chunk if BACKWARD else chunk)
        added = tl.load(own + place * E * N + inner, mask=of_en, other=0.0)
        tl.store(own + place * E * N + inner, h, mask=of_en)
        steps = tl.load(total + place * E + e, mask=of_e, other=0.0)
        h = h * tl.exp2(steps[:, None] * rates) + added
    tl.store(leaving + row * E * N + inner, h, mask=of_en)


@triton.jit
def adjoint_kernel(
    dt, A, C, dy, own, length, E, N, reach,
    dt_b, dt_t, C_b, C_t, dy_b, dy_t,
    BE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Give the gradient that a chunk's outputs alone have by the state before it.

    Program (channels, chunk, row). own (rows, chunks, E, N) is contiguous.
    """
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    chunk = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, BN)
    of_e, of_n = e < E, n < N
    of_en = of_e[:, None] & of_n[None, :]
    inner = e[:, None] * N + n[None, :]
    rates = tl.load(A + inner, mask=of_en, other=0.0) * LOG2E
    g = tl.zeros((BE, BN), tl.float32)
    start = chunk * reach
    stop = tl.minimum(start + reach, length)
    for i in range(stop - start):
        t = stop - 1 - i
        dt_ = tl.load(dt + row * dt_b + t * dt_t + e, mask=of_e, other=0.0).to(tl.float32)
        dy_ = tl.load(dy + row * dy_b + t * dy_t + e, mask=of_e, other=0.0).to(tl.float32)
        C_ = tl.load(C + row * C_b + t * C_t + n, mask=of_n, other=0.0).to(tl.float32)
        g = (g + dy_[:, None] * C_[None, :]) * tl.exp2(dt_[:, None] * rates)
    place = row * tl.num_programs(1) + chunk
    tl.store(own + place * E * N + inner, g, mask=of_en)


@triton.jit
def selective_scan_gradient_kernel(
    u, dt, A, B, C, D, dy, before, wanted, d_u, d_dt, d_B, d_C,
    length, E, N,
    u_b, u_t, dt_b, dt_t, B_b, B_t, C_b, C_t, dy_b, dy_t,
    HAS_D: tl.constexpr, REACH: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Give a chunk's gradients, its states in registers: program (channels, chunk, row).

    before (rows, chunks, E, N), the states that enter chunks, is overwritten by A's gradients;
    wanted, the gradients of the states that leave them, has the same shape. d_u and d_dt (rows,
    length, E) and d_B and d_C (programs of channels, rows, length, N) are contiguous.
    """
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    chunk = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    n = tl.arange(0, BN)
    of_e = e < E
    of_en = of_e[:, None] & (n < N)[None, :]
    inner = e[:, None] * N + n[None, :]
    decays = tl.load(A + inner, mask=of_en, other=0.0)
    rates = decays * LOG2E
    place = (row * tl.num_programs(1) + chunk) * E * N + inner
    share = (tl.program_id(0).to(tl.int64) * tl.num_programs(2) + row) * length
    h = tl.load(before + place, mask=of_en, other=0.0)
    states = (h,)
    # Positions past the end have a step of 0 and change nothing.
    for i in tl.static_range(REACH):
        t = chunk * REACH + i
        here = e < tl.where(t < length, E, 0)
        there = n < tl.where(t < length, N, 0)
        u_ = tl.load(u + row * u_b + t * u_t + e, mask=here, other=0.0).to(tl.float32)
        dt_ = tl.load(dt + row * dt_b + t * dt_t + e, mask=here, other=0.0).to(tl.float32)
        B_ = tl.load(B + row * B_b + t * B_t + n, mask=there, other=0.0).to(tl.float32)
        h = h * tl.exp2(dt_[:, None] * rates) + (dt_ * u_)[:, None] * B_[None, :]
        states += (h,)  # type: ignore[assignment]
    g = tl.load(wanted + place, mask=of_en, other=0.0)
    d_A = tl.zeros((BE, BN), tl.float32)
    if HAS_D:
        skip = tl.load(D + e, mask=of_e, other=0.0)
    for i in tl.static_range(REACH):
        t = chunk * REACH + (REACH - 1 - i)
        here = e < tl.where(t < length, E, 0)
        there = n < tl.where(t < length, N, 0)
        u_ = tl.load(u + row * u_b + t * u_t + e, mask=here, other=0.0).to(tl.float32)
        dt_ = tl.load(dt + row * dt_b + t * dt_t + e, mask=here, other=0.0).to(tl.float32)
        dy_ = tl.load(dy + row * dy_b + t * dy_t + e, mask=here, other=0.0).to(tl.float32)
        B_ = tl.load(B + row * B_b + t * B_t + n, mask=there, other=0.0).to(tl.float32)
        C_ = tl.load(C + row * C_b + t * C_t + n, mask=there, other=0.0).to(tl.float32)
        at_n = (share + t) * N + n
        tl.store(d_C + at_n, tl.sum(states[REACH - i] * dy_[:, None], 0), mask=there)
        g += dy_[:, None] * C_[None, :]
        tl.store(d_B + at_n, tl.sum(g * (dt_ * u_)[:, None], 0), mask=there)
        entered = tl.sum(g * B_[None, :], 1)
        g *= tl.exp2(dt_[:, None] * rates)
        # The gradient of dt_t A, the logarithm of the decay.
        faded = g * states[REACH - 1 - i]
        d_A += faded * dt_[:, None]
        at_e = (row * length + t) * E + e
        out = dt_ * entered
        if HAS_D:
            out += dy_ * skip
        tl.store(d_u + at_e, out.to(d_u.dtype.element_ty), mask=here)
        out = u_ * entered + tl.sum(faded * decays, 1)
        tl.store(d_dt + at_e, out.to(d_dt.dtype.element_ty), mask=here)
    tl.store(before + place, d_A, mask=of_en)
