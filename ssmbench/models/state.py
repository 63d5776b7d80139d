"""What a model carries from one position to the next, one entry a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

LayerState = tuple[Tensor, ...]
"""SSD and selective scan: (conv tail, scan state).

Attention: (keys, values, how many there are in each row, how many positions have passed).
"""


def select(state: LayerState, rows: Tensor) -> LayerState:
    """Take rows of every tensor; a row taken twice is a fork."""
    return tuple(_rows_of(t, rows) for t in state)


def join(states: Sequence[LayerState]) -> LayerState:
    """Put the rows of several states one after another."""
    if len(states) == 1:
        return states[0]
    joined = []
    for tensors in zip(*states, strict=True):
        order, back = _orders(tensors[0])
        joined.append(torch.cat([t.permute(order) for t in tensors]).permute(back))
    return tuple(joined)


def _rows_of(x: Tensor, rows: Tensor) -> Tensor:
    order, back = _orders(x)
    return x.permute(order).index_select(0, rows).permute(back)


def _orders(x: Tensor) -> tuple[list[int], list[int]]:
    """Give the order of memory that x's rows have, and back: scans give states in their own."""
    order = [0, *sorted(range(1, x.ndim), key=x.stride().__getitem__, reverse=True)]
    return order, [order.index(i) for i in range(x.ndim)]


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
