"""What the launchers of the kernels share: sizes of programs, and how tensors are handed over."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16, torch.float16)
# Channels × states that one program holds in registers.
STATE_ELEMENTS = 1024
# Programs that keep a large GPU busy.
ENOUGH_PROGRAMS = 1024
# Largest index that a kernel computes in 32 bits, within one row.
MOST_ELEMENTS = 1 << 31


def dense_last(x: Tensor) -> Tensor:
    """Make the last axis contiguous, where it is not."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def rows_of(x: Tensor) -> tuple[int, int]:
    """Give the strides of (rows, positions)."""
    return x.stride(0), x.stride(1)


def states(
    state: Tensor | None, shape: tuple[int, ...], device: torch.device, *, overwrite: bool
) -> tuple[Tensor, Tensor, list[int]]:
    """Give the state that a kernel reads, the one that it writes, and the strides of the first.

    Args:
        state: what enters, any strides, also 0; None stands for zeros, and anything is read.
        shape: of what leaves, which is float32 and contiguous.
        device: where.
        overwrite: nobody holds what enters: where it is laid out as what leaves, it is that, too.
    """
    if state is None:
        leaving = torch.empty(shape, dtype=torch.float32, device=device)
        return leaving, leaving, [0] * len(shape)
    if overwrite and state.dtype == torch.float32 and state.is_contiguous():
        return state, state, list(state.stride())
    leaving = torch.empty(shape, dtype=torch.float32, device=device)
    return state, leaving, list(state.stride())


def shares(tokens: int, bt: int, width: int, block: int) -> tuple[int, int]:
    """Divide `width` into shares of whole blocks, so that enough programs run: number and size."""
    n_blocks = triton.cdiv(width, block)
    wanted = max(1, min(n_blocks, triton.cdiv(ENOUGH_PROGRAMS, triton.cdiv(tokens, bt))))
    share = triton.cdiv(n_blocks, wanted) * block
    return triton.cdiv(width, share), share
