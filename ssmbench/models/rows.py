"""Running what depends on the order of tokens over the stages of a forest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssmbench.models.forest import Forest, Stage
from ssmbench.models.state import LayerState, join, select

# What running rows in one more part costs on a CPU, in elements that an operation goes through.
PART_ELEMENTS = 1 << 15

RowScan = Callable[[tuple[Tensor, ...], Stage, LayerState | None], tuple[Tensor, LayerState]]


def over_stages(
    forest: Forest,
    flat: tuple[Tensor, ...],
    state: LayerState | None,
    scan: RowScan,
    *,
    apart: bool = True,
) -> tuple[Tensor, LayerState]:
    """Run `scan` on each stage's rows, each from the state of the rows that it continues.

    `scan` gives flat tokens back, since it may drop some. On a CPU rows of differing lengths run
    in parts of about one length each, since padding costs there what tokens cost.

    Args:
        forest: which tokens follow which.
        flat: (tokens, …) each.
        state: before the first stage.
        scan: called with rows, their stage and the state before them.
        apart: False where `scan` must see all rows of a stage at once.

    Returns:
        The flat outputs, and the state after the last stage.
    """
    outputs = []
    for stage in forest.stages:
        before, states = state, []
        for rows, part in _parts(stage, flat[0]) if apart else [(slice(None), stage)]:
            entering = before and tuple(t[rows] for t in before)
            if part.parents is not None:
                assert before is not None
                entering = select(before, part.parents)
            y, left = scan(tuple(part.rows(t) for t in flat), part, entering)
            outputs.append(y)
            states.append(left)
        state = join(states)
    assert state is not None
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), state


def _parts(stage: Stage, flat: Tensor) -> list[tuple[slice, Stage]]:
    whole = [(slice(None), stage)]
    if flat.device.type != "cpu" or stage.even:
        return whole
    return stage.parts(PART_ELEMENTS // flat.shape[1])
