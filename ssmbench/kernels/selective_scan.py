"""The selective scan of Mamba-1, in short blocks of steps, with its own backward pass.

Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2. Work is laid out (row, step, N, E), so that
every inner loop runs over channels, with one multiply-add a step and one product a block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

STEPS = 16
# Elements of a block of steps and rows: on a CPU what each thread works on should stay near its
# core; other devices want few large operations.
BLOCK_ELEMENTS_OF_A_THREAD = 1 << 20
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
    y, h = _Scan.apply(u, dt, A.T, B, C, D, h)  # type: ignore[no-untyped-call]
    return y, h.transpose(1, 2)


def _row_blocks(u: Tensor, n: int) -> list[slice]:
    """Give the rows that are worked on together."""
    b, length, e = u.shape
    on_cpu = u.device.type == "cpu"
    near = BLOCK_ELEMENTS_OF_A_THREAD * torch.get_num_threads()
    budget = near if on_cpu else BLOCK_ELEMENTS_ELSEWHERE
    reach = max(1, min(b, budget // max(1, n * e * min(length, STEPS))))
    return [slice(i, i + reach) for i in range(0, b, reach)]


def _split(x: Tensor, rows: slice) -> tuple[Tensor, ...]:
    """View blocks of rows of (b, length, width), each (rows, steps, width)."""
    return x[rows].split(STEPS, 1) if x.shape[1] else ()


def _states_over_decays(
    u: Tensor, dt: Tensor, At: Tensor, B: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the states of `_states`, in the memory of the decays, and the last one apart.

    What enters is an outer product that is never written down: half as much memory is touched.
    """
    # exp2 is faster than exp, and has no slow path where it underflows.
    states = (dt[:, :, None] * At).exp2_()
    entering = (u * dt)[:, :, None].unbind(1), B[..., None].unbind(1)
    for state, du, b in zip(states.unbind(1), *entering, strict=True):
        h = state.mul_(h).addcmul_(du, b)
    return states, h.clone()


def _states(
    u: Tensor, dt: Tensor, At: Tensor, B: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give what enters, (rows, steps, E), and a block's decays and states, (rows, steps, N, E).

    Args:
        u: (rows, steps, E).
        dt: likewise.
        At: (N, E), times log2 e.
        B: (rows, steps, N).
        h: (rows, N, E), before the block.
    """
    decays = (dt[:, :, None] * At).exp2_()
    du = u * dt
    states = du[:, :, None] * B[..., None]
    for decay, state in zip(decays.unbind(1), states.unbind(1), strict=True):
        h = state.addcmul_(decay, h)
    return du, decays, states


class _Scan(torch.autograd.Function):
    """y and the last state; only the states between blocks are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        dt: Tensor,
        At: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        h: Tensor,
    ) -> tuple[Tensor, Tensor]:
        y = torch.empty_like(u)
        last = torch.empty(h.shape, dtype=h.dtype, device=h.device)
        trains = any(ctx.needs_input_grad)
        entering = []
        log2_A = (At * LOG2E).contiguous()
        for rows in _row_blocks(u, len(At)):
            before = h[rows].contiguous()
            blocks = (_split(t, rows) for t in (u, dt, B, C, y))
            for u_, dt_, B_, C_, y_ in zip(*blocks, strict=True):
                if trains:
                    entering.append(before)
                states, before = _states_over_decays(u_, dt_, log2_A, B_, before)
                read = torch.bmm(C_.reshape(-1, 1, len(At)), states.flatten(0, 1)).view(y_.shape)
                y_.copy_(read) if D is None else torch.addcmul(read, u_, D, out=y_)
            last[rows] = before
        if trains:
            ctx.save_for_backward(u, dt, At, B, C, D, *entering)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dy, d_last = grads
        u, dt, At, B, C, D, *entering = ctx.saved_tensors
        g_u, g_dt = torch.empty_like(u), torch.empty_like(dt)
        g_B, g_C = torch.empty_like(B), torch.empty_like(C)
        g_At = torch.zeros_like(At) if ctx.needs_input_grad[2] else None
        g_h = torch.empty_like(d_last)
        log2_A = (At * LOG2E).contiguous()
        for rows in _row_blocks(u, len(At)):
            names = (u, dt, B, C, dy, g_u, g_dt, g_B, g_C)
            blocks = list(zip(*(_split(t, rows) for t in names), strict=True))
            kept, entering = entering[: len(blocks)], entering[len(blocks) :]
            dh = d_last[rows]
            for block, before in zip(reversed(blocks), reversed(kept), strict=True):
                u_, dt_, B_, C_, dy_, g_u_, g_dt_, g_B_, g_C_ = block
                du, decays, states = _states(u_, dt_, log2_A, B_, before)
                g_C_.copy_(torch.matmul(states, dy_[..., None])[..., 0])
                # g_t = C_t dy_t + a_{t+1} g_{t+1}: the same recurrence, run backwards in place.
                g = C_[..., None] * dy_[:, :, None]
                g[:, -1] += dh
                for t in range(g.shape[1] - 2, -1, -1):
                    g[:, t].addcmul_(decays[:, t + 1], g[:, t + 1])
                dh = decays[:, 0] * g[:, 0]
                g_B_.copy_(torch.matmul(g, du[..., None])[..., 0])
                g_du = torch.matmul(B_[:, :, None], g)[:, :, 0]
                torch.mul(g_du, dt_, out=g_u_)
                # The gradient of dt_t A, in place of the gradient of h_t.
                g_log = g.mul_(decays)
                g_log[:, 1:].mul_(states[:, :-1])
                g_log[:, 0].mul_(before)
                g_dt_.copy_(torch.mul(g_log, At, out=decays).sum(2).addcmul_(g_du, u_))
                if g_At is not None:
                    g_At += g_log.mul_(dt_[:, :, None]).sum((0, 1))
            g_h[rows] = dh
        if D is None:
            return g_u, g_dt, g_At, g_B, g_C, None, g_h
        g_D = (dy * u).sum((0, 1)) if ctx.needs_input_grad[5] else None
        return g_u.addcmul_(dy, D), g_dt, g_At, g_B, g_C, g_D, g_h
