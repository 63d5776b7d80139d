"""The gate and the norm after it, in one pass each way."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmbench.kernels import autograd
from ssmbench.kernels.on_triton.launching import ENOUGH_PROGRAMS, TYPES, dense_last

# Channels that one program gates and norms.
MOST_CHANNELS = 1 << 14


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


@triton.jit
def gate_gradient_kernel(
    y, z, weight, d_out, d_y, d_z, d_weight, tokens, share, E, size, eps, y_t, z_t, d_out_t,
    NORMS: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    """Give the gradients of a share of the tokens, one group: program (share, group).

    d_y and d_z (tokens, E) and d_weight (shares, E), each share's part, are contiguous.
    """
    first = tl.program_id(0).to(tl.int64) * share
    e = tl.program_id(1) * size + tl.arange(0, BE)
    of_e = tl.arange(0, BE) < size
    if NORMS:
        scale = tl.load(weight + e, mask=of_e, other=0.0).to(tl.float32)
        summed = tl.zeros((BE,), tl.float32)
    for token in range(first, tl.minimum(first + share, tokens)):
        y_ = tl.load(y + token * y_t + e, mask=of_e, other=0.0).to(tl.float32)
        z_ = tl.load(z + token * z_t + e, mask=of_e, other=0.0).to(tl.float32)
        d = tl.load(d_out + token * d_out_t + e, mask=of_e, other=0.0).to(tl.float32)
        opened = 1.0 / (1.0 + tl.exp(-z_))
        silu = z_ * opened
        if NORMS:
            gated = y_ * silu
            inverse = 1.0 / tl.sqrt(tl.sum(gated * gated, 0) / size + eps)
            normed = gated * inverse
            summed += d * normed
            d *= scale
            d = inverse * (d - normed * (tl.sum(d * normed, 0) / size))
        tl.store(d_y + token * E + e, (d * silu).to(d_y.dtype.element_ty), mask=of_e)
        d = d * y_ * (opened + silu * (1.0 - opened))
        tl.store(d_z + token * E + e, d.to(d_z.dtype.element_ty), mask=of_e)
    if NORMS:
        tl.store(d_weight + tl.program_id(0).to(tl.int64) * E + e, summed, mask=of_e)


def gate(y: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Give y · silu(z) in a dtype; see `kernels.gate`. Computes in float32."""
    return _gated(y, z, None, 0.0, 1, dtype)


def gated_norm(
    y: Tensor, z: Tensor, weight: Tensor, eps: float, n_groups: int = 1
) -> Tensor | None:
    """Gate, and scale each group to unit RMS; see `kernels.gate`. Computes in float32."""
    return _gated(y, z, weight, eps, n_groups, weight.dtype)


def _gated(
    y: Tensor, z: Tensor, weight: Tensor | None, eps: float, n_groups: int, dtype: torch.dtype
) -> Tensor | None:
    tokens, channels = y.shape
    size = channels // n_groups
    if y.dtype not in TYPES or z.dtype not in TYPES or not tokens or size > MOST_CHANNELS:
        return None
    y, z = dense_last(y), dense_last(z)
    weight = None if weight is None else weight.contiguous()
    if autograd.wanted(y, z, weight):
        found: Tensor = _Gate.apply(y, z, weight, eps, n_groups, dtype)  # type: ignore[no-untyped-call]
        return found
    return _forward(y, z, weight, eps, n_groups, dtype)


def _forward(
    y: Tensor, z: Tensor, weight: Tensor | None, eps: float, n_groups: int, dtype: torch.dtype
) -> Tensor:
    tokens, channels = y.shape
    size = channels // n_groups
    out = torch.empty(y.shape, dtype=dtype, device=y.device)
    gate_kernel[tokens, n_groups](
        y, z, y if weight is None else weight, out, channels, size, eps,
        y.stride(0), z.stride(0), NORMS=weight is not None, **_block(size),
    )  # fmt: skip
    return out


def _block(size: int) -> dict[str, int]:
    block = triton.next_power_of_2(size)
    # At most 16 channels a thread, so that none leaves the registers.
    return {"BE": block, "num_warps": max(1, min(32, block // 512))}


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        z: Tensor,
        weight: Tensor | None,
        eps: float,
        n_groups: int,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(y, z, weight)
        ctx.eps, ctx.n_groups = eps, n_groups
        return _forward(y, z, weight, eps, n_groups, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        y, z, weight = ctx.saved_tensors
        d_out = dense_last(d_out)
        tokens, channels = y.shape
        size = channels // ctx.n_groups
        # A program for each token, unless they have a weight's gradient to sum up.
        share = 1 if weight is None else triton.cdiv(tokens, ENOUGH_PROGRAMS)
        n_shares = triton.cdiv(tokens, share)
        d_y, d_z = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (y, z))
        d_weight = d_y if weight is None else y.new_empty(n_shares, channels, dtype=torch.float32)
        gate_gradient_kernel[n_shares, ctx.n_groups](
            y, z, y if weight is None else weight, d_out, d_y, d_z, d_weight,
            tokens, share, channels, size, ctx.eps, y.stride(0), z.stride(0), d_out.stride(0),
            NORMS=weight is not None, **_block(size),
        )  # fmt: skip
        d_weight = None if weight is None else d_weight.sum(0).to(weight.dtype)
        return d_y, d_z, d_weight, None, None, None
