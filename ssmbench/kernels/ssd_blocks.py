"""What the SSD scan works on together: blocks of rows and chunks, and their decays."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

# Elements of a block of rows and chunks that are worked on together. On a CPU what each thread
# makes of a block should stay near its core; other devices want few large operations.
BLOCK_ELEMENTS_OF_A_THREAD = 1 << 18
BLOCK_ELEMENTS_ELSEWHERE = 1 << 27
LOG2E = math.log2(math.e)
# Above the diagonal, where scores are 0, decays must only stay finite.
LARGEST_EXPONENT = 100.0


class Decays(NamedTuple):
    """What the running sums of log decays give, for whole chunks of q positions.

    A decay from j to i is 2^(row_i − column_j), both as a float and what it leaves out: sums reach
    hundreds, and their small differences matter.

    Attributes:
        row: two of (b, c, H, q).
        column: two of (b, c, H, q); the input's weight stands in it.
        entered: (b, c, q, H), from the chunk's start.
        left: (b, c, q, H), to the chunk's end, times the input's weight.
        kept: (b, c, H), over the whole chunk.
    """

    row: tuple[Tensor, Tensor]
    column: tuple[Tensor, Tensor]
    entered: Tensor
    left: Tensor
    kept: Tensor

    def of(self, block: Block) -> Decays:
        """Take a block's rows and chunks, and its positions where the last chunk is a short one."""
        rows, chunks, q = block.rows, block.chunks, block.q
        row, column = (
            tuple(t[rows, chunks, :, :q].flatten(0, 1) for t in pair)
            for pair in (self.row, self.column)
        )
        entered, left = (t[rows, chunks, :q].flatten(0, 1) for t in (self.entered, self.left))
        return Decays(row, column, entered, left, self.kept[rows, chunks])  # type: ignore[arg-type]


class Block(NamedTuple):
    """Rows and chunks that are worked on together: whole chunks, or one shorter one."""

    rows: slice
    chunks: slice
    positions: slice
    q: int

    @property
    def n_chunks(self) -> int:
        """Chunks of a row."""
        return int(self.chunks.stop - self.chunks.start)

    def split(self, x: Tensor) -> Tensor:
        """View (rows, chunks, q, …) of (b, length, …)."""
        its = x[self.rows, self.positions]
        return its.view(len(its), -1, self.q, *its.shape[2:])

    def of(self, x: Tensor) -> Tensor:
        """Take (rows · chunks, q, …) of (b, length, …)."""
        return self.split(x).flatten(0, 1)


def blocks_of(x: Tensor, q: int) -> Iterator[tuple[slice, list[Block]]]:
    """Give blocks of rows, and for each its blocks of chunks."""
    b, length, h, p = x.shape
    near = BLOCK_ELEMENTS_OF_A_THREAD * torch.get_num_threads()
    budget = near if x.device.type == "cpu" else BLOCK_ELEMENTS_ELSEWHERE
    chunks = max(1, budget // max(1, q * h * max(p, q)))
    n_rows = max(1, min(b, chunks))
    reach = q * (chunks // n_rows)
    whole = length - length % q
    starts = [*range(0, whole, reach), *([whole] if whole < length else [])]
    for i in range(0, b, n_rows):
        rows = slice(i, i + n_rows)
        blocks = []
        for start, stop in pairwise([*starts, length]):
            spans = slice(start // q, -(-stop // q)), slice(start, stop)
            blocks.append(Block(rows, *spans, min(q, stop - start)))
        yield rows, blocks


def decays_of(log_decay: Tensor, weight: Tensor | None, q: int, dtype: torch.dtype) -> Decays:
    """Sum log decays within chunks.

    Args:
        log_decay: (b, length, H), ≤ 0, natural.
        weight: (b, length, H), ≥ 0, of the inputs; None where it is 1.
        q: positions of a chunk.
        dtype: of what is given.
    """
    b, length, h = log_decay.shape
    # Padding neither decays nor weighs: it changes none of the sums at a chunk's end.
    padding = (0, 0, 0, -length % q)
    shape = (b, -(-length // q), q, h)
    cs = (F.pad(log_decay.double(), padding) * LOG2E).view(shape).cumsum(2)
    last = cs[:, :, -1]
    left = torch.exp2(last[:, :, None] - cs).to(dtype)
    column = cs
    if weight is not None:
        weight = F.pad(weight, padding).view(shape)
        left.mul_(weight)
        column = cs - weight.double().log2()
    entered, kept = torch.exp2(cs).to(dtype), torch.exp2(last).to(dtype)
    return Decays(_two_parts(cs, dtype), _two_parts(column, dtype), entered, left, kept)


def _two_parts(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Give (b, c, H, q) of (b, c, q, H), as a number of a type and what that leaves out."""
    x = x.transpose(2, 3).contiguous()
    high = x.to(dtype)
    # A weight of 0 has an infinite logarithm, of which nothing is left out.
    return high, (x - high).to(dtype).nan_to_num_(0)


def decay_matrix(d: Decays) -> Tensor:
    """Give the decays (m, H, q, q) from column to row; above the diagonal what is finite."""
    (row, row_rest), (column, column_rest) = d.row, d.column
    decay = row[..., :, None] - column[..., None, :]
    decay.add_(row_rest[..., :, None]).sub_(column_rest[..., None, :])
    # exp2 has no slow path where it underflows, unlike exp.
    decay.clamp_max_(LARGEST_EXPONENT).exp2_()
    return decay
