"""What a model carries from one position to the next, one entry a layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

LayerState = tuple[Tensor, ...]
"""SSD and selective scan: (conv tail, scan state).

Attention: (keys, values, how many there are in each row, how many positions have passed).
"""


def select(state: LayerState, rows: Tensor) -> LayerState:
    """Take rows of every tensor; a row taken twice is a fork."""
    return tuple(_rows_of(t, rows) for t in state)


def _rows_of(x: Tensor, rows: Tensor) -> Tensor:
    """Take rows, in the order of memory that x has: scans give their states in their own."""
    order = sorted(range(1, x.ndim), key=x.stride().__getitem__, reverse=True)
    back = [0, *(1 + order.index(i) for i in range(1, x.ndim))]
    return x.permute(0, *order).index_select(0, rows).permute(back)


@dataclass(frozen=True)
class State:
    """The states of all layers after the tokens seen so far, batch first in every tensor."""

    layers: tuple[LayerState, ...]

    def select(self, rows: Tensor) -> State:
        """Reorder, drop or fork rows: (rows,) int64 indices into the batch."""
        return State(tuple(select(layer, rows) for layer in self.layers))

    @property
    def n_bytes(self) -> int:
        """Bytes held for the whole batch."""
        return sum(t.numel() * t.element_size() for layer in self.layers for t in layer)
