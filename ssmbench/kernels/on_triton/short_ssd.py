"""SSD in short rows: decoding, and answers after a fork."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmbench.kernels.on_triton import launching
from ssmbench.kernels.on_triton.launching import dense_last, rows_of

# Past so many positions SSD's matrix products win over stepping (not measured on a GPU yet).
SHORT = 16
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


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


def ssd(
    x: Tensor,
    log_decay: Tensor,
    in_weight: Tensor | None,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Step through rows of at most `SHORT` positions; inputs and outputs as in `dispatch.ssd`.

    A state of any strides, also 0, which is written into with `overwrite`, where it can be. Longer
    rows are matrix products, for which the torch form calls the GPU's own; so is a backward pass.
    """
    rows, length, heads, p = x.shape
    n = B.shape[3]
    if x.dtype not in launching.TYPES or not 0 < length <= SHORT or C.shape != B.shape:
        return None
    x, log_decay, B, C = (dense_last(t) for t in (x, log_decay.float(), B, C))
    weight = log_decay if in_weight is None else dense_last(in_weight.float())
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    entering, leaving, strides = launching.states(
        state, (rows, heads, p, n), x.device, overwrite=overwrite
    )
    bn = triton.next_power_of_2(n)
    bp = max(1, min(4 * launching.STATE_ELEMENTS // bn, triton.next_power_of_2(p)))
    short_ssd_kernel[triton.cdiv(p, bp), heads, rows](
        x, log_decay, weight, B, C, log_decay if D is None else D.float().contiguous(),
        entering, y, leaving, length, p, n, heads // B.shape[2],
        *x.stride()[:3], *rows_of(log_decay), *rows_of(weight), *B.stride()[:3], *C.stride()[:3],
        *strides, HAS_WEIGHT=in_weight is not None, HAS_D=D is not None,
        HAS_STATE=state is not None, BP=bp, BN=bn,
    )  # fmt: skip
    return y, leaving
