"""Prompts in chunks: which run together, and what state each continues.

Rows of differing numbers of chunks end together, so that one state holds what all of them leave:
a shorter row begins in a later round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssmbench.models.forest import Forest, Stage
from ssmbench.models.state import State


@dataclass(frozen=True)
class Round:
    """One chunk of every prompt that is under way.

    Attributes:
        forest: the chunks; in the last round, also all that follows the prompts.
        index: (n,) int64, its tokens in the whole forest's flat order.
        parents: for each row the row of the round before that it continues; one past its end
            for a row that begins.
        n_before: rows of the round before.
    """

    forest: Forest
    index: Tensor
    parents: tuple[int, ...]
    n_before: int

    def entering(self, state: State | None) -> State | None:
        """Give the state that the rows continue: the round before's, and zeros that begin."""
        if state is None or self.parents == tuple(range(self.n_before)):
            return state
        empty = (
            tuple(torch.cat([t, t.new_zeros(1, *t.shape[1:])]) for t in layer)
            for layer in state.layers
        )
        return State(tuple(empty)).select(torch.tensor(self.parents, device=self.index.device))


def rounds(forest: Forest, chunk: int | None) -> list[Round]:
    """Divide a forest's prompts into chunks; one round, all of it, where none is longer.

    Args:
        forest: prompted; of any number of stages.
        chunk: tokens, at least 1; None for no division.
    """
    stage = forest.stages[0]
    everything = torch.arange(len(forest.tokens), device=stage.device)
    if chunk is None or stage.length <= chunk:
        return [Round(forest, everything, tuple(range(len(stage.lengths))), len(stage.lengths))]
    prompts = everything[: stage.n_tokens].split(list(stage.lengths))
    pieces = [prompt.split(chunk) for prompt in prompts]
    n_rounds = max(map(len, pieces))
    found: list[Round] = []
    before: list[int] = []
    for i in range(n_rounds):
        rows = [row for row, chunks in enumerate(pieces) if len(chunks) + i >= n_rounds]
        mine = [pieces[row][i - n_rounds] for row in rows]
        last = i == n_rounds - 1
        index = torch.cat([*mine, *([everything[stage.n_tokens :]] if last else [])])
        first = Stage(tuple(map(len, mine)), 0, None, stage.device)
        stages = forest.after(first) if last else (first,)
        part = replace(forest, tokens=forest.tokens[index], stages=stages)
        places = {row: place for place, row in enumerate(before)}
        parents = tuple(places.get(row, len(before)) for row in rows)
        found.append(Round(part, index, parents, len(before)))
        before = rows
    return found
