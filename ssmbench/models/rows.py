"""Running what depends on the order of tokens over the stages of a forest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssmbench.models.forest import Forest, Stage
from ssmbench.models.state import LayerState, select

RowScan = Callable[[tuple[Tensor, ...], Stage, LayerState | None], tuple[Tensor, LayerState]]


def over_stages(
    forest: Forest, flat: tuple[Tensor, ...], state: LayerState | None, scan: RowScan
) -> tuple[Tensor, LayerState]:
    """Run `scan` on each stage's rows, each from the state of the rows that it continues.

    `scan` gives flat tokens back, since it may drop some.

    Returns:
        The flat outputs, and the state after the last stage.
    """
    outputs = []
    for stage in forest.stages:
        if stage.parents is not None:
            assert state is not None
            state = select(state, stage.parents)
        y, state = scan(tuple(stage.rows(t) for t in flat), stage, state)
        outputs.append(y)
    assert state is not None
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), state
