"""The selective scan of Mamba-1 in chunks that run side by side, with its backward pass.

Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2. What a chunk adds to a state, forward, or to
a state's gradient, backward, is computed from zero and passed on from chunk to chunk. Nothing but
the inputs is kept for the backward pass, which computes the states anew.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmbench.kernels import autograd
from ssmbench.kernels.on_triton import launching, scan_kernels
from ssmbench.kernels.on_triton.launching import dense_last, rows_of

LEAST_REACH = 64
# Positions of a chunk in the backward pass, whose states are in registers at the same time, and
# the channels × states of its programs: more leave the registers.
BACKWARD_REACH, BACKWARD_ELEMENTS = 8, 512
# Elements of the largest tensor that the backward pass makes: with more, rows take turns.
BLOCK_ELEMENTS = 1 << 28


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
    reach: int | None = None,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Scan Mamba-1 rows; inputs and outputs as in `dispatch.selective_scan`.

    Any N, and a state of any strides, also 0, which is written into with `overwrite`, where it can
    be. `reach` is how many positions a chunk has; None chooses.
    """
    length, channels = u.shape[1:]
    if u.dtype not in launching.TYPES or not length or length * channels >= launching.MOST_ELEMENTS:
        return None
    u, dt, B, C = (dense_last(t) for t in (u, dt, B, C))
    A = A.float().contiguous()
    D = None if D is None else D.float().contiguous()
    if autograd.wanted(u, dt, A, B, C, D, state):
        found: tuple[Tensor, Tensor] = _Scan.apply(u, dt, A, B, C, D, state, reach)  # type: ignore[no-untyped-call]
        return found
    return _forward(u, dt, A, B, C, D, state, reach, overwrite=overwrite)


def _forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor | None,
    reach: int | None,
    *,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor]:
    rows, length, channels = u.shape
    n = A.shape[1]
    blocks, n_blocks = _blocks(channels, n, launching.STATE_ELEMENTS)
    reach = reach or reach_of(length, rows * n_blocks)
    chunks = triton.cdiv(length, reach)
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    entering, leaving, strides = launching.states(
        state, (rows, channels, n), u.device, overwrite=overwrite
    )
    strides = [strides[0], 0, *strides[1:]]
    if chunks > 1:
        own, total = _own(u, dt, A, B, C, reach, chunks, blocks)
        _pass_on(A, own, total, state, leaving, blocks)
        entering, strides = own, list(own.stride())
    scan_kernels.selective_scan_kernel[n_blocks, chunks, rows](
        u, dt, A, B, C, A if D is None else D, entering, y, leaving, A,
        length, channels, n, reach, *rows_of(u), *rows_of(dt), *rows_of(B), *rows_of(C), *strides,
        HAS_D=D is not None, HAS_STATE=state is not None or chunks > 1,
        GIVES_Y=True, GIVES_STATE=chunks == 1, GIVES_TOTAL=False, **blocks,
    )  # fmt: skip
    return y, leaving


def _own(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor,
    reach: int, chunks: int, blocks: dict[str, int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Give what each chunk leaves by itself, (rows, chunks, E, N), and its sums of steps."""
    rows, length, channels = u.shape
    n = A.shape[1]
    own = u.new_empty(rows, chunks, channels, n, dtype=torch.float32)
    total = u.new_empty(rows, chunks, channels, dtype=torch.float32)
    scan_kernels.selective_scan_kernel[triton.cdiv(channels, blocks["BE"]), chunks, rows](
        u, dt, A, B, C, A, own, own, own, total,
        length, channels, n, reach, *rows_of(u), *rows_of(dt), *rows_of(B), *rows_of(C),
        0, 0, 0, 0, HAS_D=False, HAS_STATE=False,
        GIVES_Y=False, GIVES_STATE=True, GIVES_TOTAL=True, **blocks,
    )  # fmt: skip
    return own, total


def _pass_on(
    A: Tensor,
    own: Tensor,
    total: Tensor,
    state: Tensor | None,
    leaving: Tensor,
    blocks: dict[str, int],
    *,
    backward: bool = False,
) -> None:
    """Turn what chunks leave by themselves into what enters them; `leaving` is what ends it all."""
    rows, chunks, channels, n = own.shape
    entering, strides = (own, [0, 0, 0]) if state is None else (state, list(state.stride()))
    scan_kernels.state_passing_kernel[triton.cdiv(channels, blocks["BE"]), rows](
        A, own, total, entering, leaving, channels, n, chunks, *strides,
        HAS_STATE=state is not None, BACKWARD=backward, **blocks,
    )  # fmt: skip


class _Scan(torch.autograd.Function):
    """y and the state after, with gradients by everything; only the inputs are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        state: Tensor | None,
        reach: int | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(u, dt, A, B, C, D, state)
        return _forward(u, dt, A, B, C, D, state, reach)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, A, B, C, D, state = ctx.saved_tensors
        dy = dense_last(dy)
        # Of one row, at most what enters its chunks, or what its programs add to B's gradient.
        chunks = triton.cdiv(u.shape[1], BACKWARD_REACH)
        channels, n = A.shape
        programs = _blocks(channels, n, BACKWARD_ELEMENTS)[1]
        most = max(chunks * channels * n, 2 * programs * u.shape[1] * n)
        reach = max(1, BLOCK_ELEMENTS // most)
        found = []
        for i in range(0, len(u), reach):
            rows = slice(i, i + reach)
            before = None if state is None else state[rows]
            its: list[Tensor] = [t[rows] for t in (u, dt, B, C, dy, d_last)]
            found.append(_backward(*its, A=A, D=D, state=before))
        *by_rows, d_A = zip(*found, strict=True)
        d_u, d_dt, d_B, d_C, d_state = (t[0] if len(t) == 1 else torch.cat(t) for t in by_rows)
        d_D = None if D is None else (dy.float() * u.float()).sum((0, 1))
        d_state = None if state is None else d_state
        return d_u, d_dt, torch.stack(d_A).sum(0), d_B, d_C, d_D, d_state, None


def _backward(
    u: Tensor, dt: Tensor, B: Tensor, C: Tensor, dy: Tensor, d_last: Tensor,
    *, A: Tensor, D: Tensor | None, state: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Give the gradients of u, dt, B, C, the state and A, from those of y and the last state."""
    rows, length, channels = u.shape
    n = A.shape[1]
    blocks, n_blocks = _blocks(channels, n, BACKWARD_ELEMENTS)
    reach = min(BACKWARD_REACH, triton.next_power_of_2(length))
    chunks = triton.cdiv(length, reach)
    before, total = _own(u, dt, A, B, C, reach, chunks, blocks)
    last = torch.empty_like(d_last, dtype=torch.float32, memory_format=torch.contiguous_format)
    _pass_on(A, before, total, state, last, blocks)
    wanted, d_state = torch.empty_like(before), last
    scan_kernels.adjoint_kernel[n_blocks, chunks, rows](
        dt, A, C, dy, wanted, length, channels, n, reach,
        *rows_of(dt), *rows_of(C), *rows_of(dy), **blocks,
    )  # fmt: skip
    _pass_on(A, wanted, total, d_last, d_state, blocks, backward=True)
    d_u, d_dt = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (u, dt))
    d_B, d_C = u.new_empty(2, n_blocks, rows, length, n, dtype=torch.float32)
    scan_kernels.selective_scan_gradient_kernel[n_blocks, chunks, rows](
        u, dt, A, B, C, A if D is None else D, dy, before, wanted, d_u, d_dt, d_B, d_C,
        length, channels, n, *rows_of(u), *rows_of(dt), *rows_of(B), *rows_of(C), *rows_of(dy),
        HAS_D=D is not None, REACH=reach, **blocks,
    )  # fmt: skip
    d_B, d_C = d_B.sum(0).to(B.dtype), d_C.sum(0).to(C.dtype)
    return d_u, d_dt, d_B, d_C, d_state, before.sum((0, 1))


def _blocks(channels: int, n: int, elements: int) -> tuple[dict[str, int], int]:
    """Give the sizes of a program that holds so many channels × states, and how many it takes."""
    bn = triton.next_power_of_2(n)
    be = max(1, min(elements // bn, triton.next_power_of_2(channels)))
    return {"BE": be, "BN": bn}, triton.cdiv(channels, be)


def reach_of(length: int, programs: int) -> int:
    """Choose how many positions a chunk has: all, where enough programs run already."""
    wanted = -(-launching.ENOUGH_PROGRAMS // programs)
    # Two chunks do twice the work of one: they gain nothing.
    if wanted < 3 or length < 3 * LEAST_REACH:
        return length
    return max(LEAST_REACH, -(-length // wanted))
