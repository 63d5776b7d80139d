"""The selective scan of Mamba-1, in short blocks of steps, with its own backward pass.

Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2. Work is laid out (batch, step, N, E), so
that every inner loop runs over channels, with one multiply-add a step and one product a block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 8
LOG2E = math.log2(math.e)


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t;  y_t = C_t h_t + D u_t.

    A padded position has dt 0: it leaves the state as it is.

    Args:
        u: (batch, length, E).
        dt: (batch, length, E), ≥ 0, after softplus.
        A: (E, N), < 0.
        B: (batch, length, N).
        C: (batch, length, N).
        D: (E,) or None.
        state: (batch, E, N) before the first position; None stands for zeros.

    Returns:
        y (batch, length, E) and the state after the last position (batch, E, N).
    """
    h = u.new_zeros(u.shape[0], *A.shape) if state is None else state
    y, h = _Scan.apply(u * dt, dt, A.T, B, C, h.transpose(1, 2))  # type: ignore[no-untyped-call]
    return (y if D is None else torch.addcmul(y, u, D)), h.transpose(1, 2)


def _block_states(
    du: Tensor, dt: Tensor, At: Tensor, B: Tensor, h: Tensor, span: slice
) -> tuple[Tensor, Tensor]:
    """Give the decays and the states of a block, both (batch, steps, N, E)."""
    decay = torch.exp2(dt[:, span, None] * (At * LOG2E))
    states = du[:, span, None] * B[:, span, :, None]
    states[:, 0].addcmul_(decay[:, 0], h)
    for t in range(1, states.shape[1]):
        states[:, t].addcmul_(decay[:, t], states[:, t - 1])
    return decay, states


class _Scan(torch.autograd.Function):
    """y and the last state from du = dt·u; only the states between blocks are kept."""

    @staticmethod
    def forward(
        ctx: Any, du: Tensor, dt: Tensor, At: Tensor, B: Tensor, C: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = torch.empty_like(du)
        h = h.contiguous()
        entering = []
        for start in range(0, du.shape[1], BLOCK):
            span = slice(start, start + BLOCK)
            entering.append(h)
            _, states = _block_states(du, dt, At, B, h, span)
            y[:, span] = torch.matmul(C[:, span, None], states)[:, :, 0]
            h = states[:, -1].clone()
        ctx.save_for_backward(du, dt, At, B, C, *(entering if any(ctx.needs_input_grad) else ()))
        return y, h.clone() if not entering else h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dy, dh = grads
        du, dt, At, B, C, *entering = ctx.saved_tensors
        g_du, g_dt = torch.empty_like(du), torch.empty_like(dt)
        g_B, g_C = torch.empty_like(B), torch.empty_like(C)
        g_At = torch.zeros_like(At) if ctx.needs_input_grad[2] else None
        dh = dh.clone()
        for i in range(len(entering) - 1, -1, -1):
            span = slice(i * BLOCK, (i + 1) * BLOCK)
            decay, states = _block_states(du, dt, At, B, entering[i], span)
            g_C[:, span] = torch.matmul(states, dy[:, span, :, None])[..., 0]
            # g_t = C_t dy_t + a_{t+1} g_{t+1}: the same recurrence, run backwards in place.
            g = C[:, span, :, None] * dy[:, span, None]
            g[:, -1] += dh
            for t in range(g.shape[1] - 2, -1, -1):
                g[:, t].addcmul_(decay[:, t + 1], g[:, t + 1])
            dh = decay[:, 0] * g[:, 0]
            g_B[:, span] = torch.matmul(g, du[:, span, :, None])[..., 0]
            g_du[:, span] = torch.matmul(B[:, span, None], g)[:, :, 0]
            # The gradient of dt_t A, in place of the gradient of h_t.
            g_log = g.mul_(decay)
            g_log[:, 1:].mul_(states[:, :-1])
            g_log[:, 0].mul_(entering[i])
            torch.sum(torch.mul(g_log, At, out=decay), 2, out=g_dt[:, span])
            if g_At is not None:
                g_At += g_log.mul_(dt[:, span, None]).sum((0, 1))
        return g_du, g_dt, g_At, g_B, g_C, dh
