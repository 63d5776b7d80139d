"""The causal convolution, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmbench.kernels import autograd
from ssmbench.kernels.on_triton.launching import MOST_ELEMENTS, TYPES, dense_last, rows_of


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
def causal_conv_gradient_kernel(
    x, weight, tail, dy, d_x, d_tail, d_weight, length, channels,
    x_b, x_t, w_c, w_k, tail_b, tail_t, dy_b, dy_t,
    HAS_TAIL: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Give the gradients of BT inputs of BC channels: program (channels, inputs, row).

    A tail's K − 1 inputs stand before the first. d_x, d_tail and d_weight (rows, programs of
    inputs, K, channels), each program's part, are contiguous.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    row = tl.program_id(2).to(tl.int64)
    if HAS_TAIL:
        t -= K - 1
    of_c = c < channels
    of_tc = (t < length)[:, None] & of_c[None, :]
    present, before = of_tc & (t >= 0)[:, None], of_tc & (t < 0)[:, None]
    seen = tl.load(x + row * x_b + t[:, None] * x_t + c[None, :], mask=present, other=0.0)
    place = (t + (K - 1))[:, None]
    if HAS_TAIL:
        seen += tl.load(tail + row * tail_b + place * tail_t + c[None, :], mask=before, other=0.0)
    seen = seen.to(tl.float32)
    out = tl.zeros((BT, BC), tl.float32)
    part = row * tl.num_programs(1) + tl.program_id(1)
    for j in tl.static_range(0, K):
        tap = tl.load(weight + c * w_c + j * w_k, mask=of_c, other=0.0).to(tl.float32)
        # The output that meets this input with tap j.
        at = t + (K - 1 - j)
        meets = of_tc & ((at >= 0) & (at < length))[:, None]
        dy_ = tl.load(dy + row * dy_b + at[:, None] * dy_t + c[None, :], mask=meets, other=0.0)
        dy_ = dy_.to(tl.float32)
        out += dy_ * tap[None, :]
        tl.store(d_weight + (part * K + j) * channels + c, tl.sum(dy_ * seen, 0), mask=of_c)
    at_x = d_x + (row * length + t[:, None]) * channels + c[None, :]
    tl.store(at_x, out.to(d_x.dtype.element_ty), mask=present)
    if HAS_TAIL:
        at_tail = d_tail + (row * (K - 1) + place) * channels + c[None, :]
        tl.store(at_tail, out.to(d_tail.dtype.element_ty), mask=before)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None = None
) -> Tensor | None:
    """Convolve (batch, length, channels); see `kernels.conv`. Sums in float32, any K."""
    length, channels = x.shape[1:]
    if x.dtype not in TYPES or not length or length * channels >= MOST_ELEMENTS:
        return None
    x, tail = dense_last(x), None if tail is None else dense_last(tail)
    if autograd.wanted(x, weight, bias, tail):
        found: Tensor = _Convolution.apply(x, weight, bias, tail)  # type: ignore[no-untyped-call]
        return found
    return _forward(x, weight, bias, tail)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None) -> Tensor:
    rows, length, channels = x.shape
    before = x if tail is None else tail
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    bt, bc = _tile(length, channels)
    causal_conv_kernel[triton.cdiv(channels, bc), triton.cdiv(length, bt), rows](
        x, weight, weight if bias is None else bias.contiguous(), before, y,
        length, channels, *rows_of(x), *weight.stride(), *rows_of(before),
        HAS_BIAS=bias is not None, HAS_TAIL=tail is not None, K=weight.shape[1], BT=bt, BC=bc,
    )  # fmt: skip
    return y


def _tile(length: int, channels: int) -> tuple[int, int]:
    return min(16, triton.next_power_of_2(length)), min(64, triton.next_power_of_2(channels))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, tail)
        return _forward(x, weight, bias, tail)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, tail = ctx.saved_tensors
        dy = dense_last(dy)
        rows, length, channels = x.shape
        k = weight.shape[1]
        before = x if tail is None else tail
        inputs = length if tail is None else length + k - 1
        bt, bc = _tile(inputs, channels)
        parts = triton.cdiv(inputs, bt)
        d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        d_tail = torch.empty(before.shape, dtype=before.dtype, device=x.device)
        d_weight = x.new_empty(rows, parts, k, channels, dtype=torch.float32)
        causal_conv_gradient_kernel[triton.cdiv(channels, bc), parts, rows](
            x, weight, before, dy, d_x, d_tail, d_weight, length, channels,
            *rows_of(x), *weight.stride(), *rows_of(before), *rows_of(dy),
            HAS_TAIL=tail is not None, K=k, BT=bt, BC=bc,
        )  # fmt: skip
        d_bias = None if bias is None else dy.float().sum((0, 1)).to(bias.dtype)
        d_weight = d_weight.sum((0, 1)).T.to(weight.dtype)
        return d_x, d_weight, d_bias, None if tail is None else d_tail
