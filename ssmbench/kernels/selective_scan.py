"""The selective scan of Mamba-1, in short blocks of steps, with its own backward pass.

Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2. Work is laid out (step, row, N, E), so that
every inner loop runs over channels, with one multiply-add a step and one product a block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

STEPS = 16
# Elements of a block of steps and rows: on a CPU it should stay near a core; other devices want
# few large operations.
BLOCK_ELEMENTS = {"cpu": 1 << 19}
BLOCK_ELEMENTS_ELSEWHERE = 1 << 28
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
        y (batch, length, E) and the state after the last position (batch, E, N). In memory the
        state's N comes before its E; a state that is given in that order is not copied.
    """
    h = u.new_zeros(u.shape[0], *A.T.shape) if state is None else state.transpose(1, 2)
    y, h = _Scan.apply(u * dt, dt, A.T, B, C, h)  # type: ignore[no-untyped-call]
    return (y if D is None else torch.addcmul(y, u, D)), h.transpose(1, 2)


def _row_blocks(du: Tensor, n: int) -> list[slice]:
    """Give the rows that are worked on together."""
    b, length, e = du.shape
    budget = BLOCK_ELEMENTS.get(du.device.type, BLOCK_ELEMENTS_ELSEWHERE)
    reach = max(1, min(b, budget // max(1, n * e * min(length, STEPS))))
    return [slice(i, i + reach) for i in range(0, b, reach)]


def _split(x: Tensor, rows: slice) -> tuple[Tensor, ...]:
    """View blocks of rows of (b, length, width), each (steps, rows, width)."""
    return x[rows].transpose(0, 1).split(STEPS) if x.shape[1] else ()


def _states(du: Tensor, dt: Tensor, At: Tensor, B: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Give the decays and the states of a block, both (steps, rows, N, E).

    Args:
        du: (steps, rows, E).
        dt: likewise.
        At: (N, E), times log2 e.
        B: (steps, rows, N).
        h: (rows, N, E), before the block.
    """
    # exp2 is faster than exp, and has no slow path where it underflows.
    decays = (dt[:, :, None] * At).exp2_()
    states = du[:, :, None] * B[..., None]
    for decay, state in zip(decays.unbind(0), states.unbind(0), strict=True):
        h = state.addcmul_(decay, h)
    return decays, states


def _forward(
    du: Tensor, dt: Tensor, At: Tensor, B: Tensor, C: Tensor, h: Tensor, y: Tensor
) -> Tensor:
    """Write y of a block, (steps, rows, E), and give the state after it."""
    _, states = _states(du, dt, At, B, h)
    read = torch.bmm(C.reshape(-1, 1, C.shape[2]), states.flatten(0, 1))
    y.copy_(read.view(y.shape))
    return states[-1].clone()


class _Scan(torch.autograd.Function):
    """y and the last state from du = dt·u; only the states between blocks are kept."""

    @staticmethod
    def forward(
        ctx: Any, du: Tensor, dt: Tensor, At: Tensor, B: Tensor, C: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = torch.empty_like(du)
        last = torch.empty(h.shape, dtype=h.dtype, device=h.device)
        trains = any(ctx.needs_input_grad)
        entering = []
        log2_A = (At * LOG2E).contiguous()
        for rows in _row_blocks(du, len(At)):
            before = h[rows].contiguous()
            blocks = (_split(t, rows) for t in (du, dt, B, C, y))
            for du_, dt_, B_, C_, y_ in zip(*blocks, strict=True):
                if trains:
                    entering.append(before)
                before = _forward(du_, dt_, log2_A, B_, C_, before, y_)
            last[rows] = before
        if trains:
            ctx.save_for_backward(du, dt, At, B, C, *entering)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dy, d_last = grads
        du, dt, At, B, C, *entering = ctx.saved_tensors
        g_du, g_dt = torch.empty_like(du), torch.empty_like(dt)
        g_B, g_C = torch.empty_like(B), torch.empty_like(C)
        g_At = torch.zeros_like(At) if ctx.needs_input_grad[2] else None
        g_h = torch.empty_like(d_last)
        log2_A = (At * LOG2E).contiguous()
        for rows in _row_blocks(du, len(At)):
            names = (du, dt, B, C, dy, g_du, g_dt, g_B, g_C)
            blocks = list(zip(*(_split(t, rows) for t in names), strict=True))
            kept, entering = entering[: len(blocks)], entering[len(blocks) :]
            dh = d_last[rows]
            for block, before in zip(reversed(blocks), reversed(kept), strict=True):
                du_, dt_, B_, C_, dy_, g_du_, g_dt_, g_B_, g_C_ = block
                decays, states = _states(du_, dt_, log2_A, B_, before)
                g_C_.copy_(torch.matmul(states, dy_[..., None])[..., 0])
                # g_t = C_t dy_t + a_{t+1} g_{t+1}: the same recurrence, run backwards in place.
                g = C_[..., None] * dy_[:, :, None]
                g[-1] += dh
                for t in range(len(g) - 2, -1, -1):
                    g[t].addcmul_(decays[t + 1], g[t + 1])
                dh = decays[0] * g[0]
                g_B_.copy_(torch.matmul(g, du_[..., None])[..., 0])
                g_du_.copy_(torch.matmul(B_[:, :, None], g)[:, :, 0])
                # The gradient of dt_t A, in place of the gradient of h_t.
                g_log = g.mul_(decays)
                g_log[1:].mul_(states[:-1])
                g_log[0].mul_(before)
                g_dt_.copy_(torch.mul(g_log, At, out=decays).sum(2))
                if g_At is not None:
                    g_At += g_log.mul_(dt_[:, :, None]).sum((0, 1))
            g_h[rows] = dh
        return g_du, g_dt, g_At, g_B, g_C, g_h
