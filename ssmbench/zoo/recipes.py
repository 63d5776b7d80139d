"""What the zoo's models are and how each is trained, as data; no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssmbench.models import description as d
from ssmbench.zoo import tinyworld


@dataclass(frozen=True)
class Recipe:
    """How one zoo model is made.

    Attributes:
        description: the model.
        steps: batches to train on.
        seed: of the weights and of the stories.
        batch: rows of a batch.
        length: words of a row.
        peak_lr: AdamW's learning rate at the top of the one-cycle schedule.
        warmup: fraction of the steps before that top.
        beta2: AdamW's second coefficient; the first is 0.9.
        weight_decay: on matrices; vectors and A_log have none.
        clip: largest norm of the whole gradient.
        other_weight: weight in the loss of words that the story does not determine.
        embedding_std: of the fresh embedding, which is also the head.
        slow_decay: begin with A = −1 throughout instead of −(1..N) or −U[1, 16]: nothing said in
            a hundred words need be forgotten then, and recall is learnt in half the steps.
    """

    description: d.Description
    steps: int
    seed: int = 0
    batch: int = 48
    length: int = 112
    peak_lr: float = 6e-3
    warmup: float = 0.04
    beta2: float = 0.98
    weight_decay: float = 0.01
    clip: float = 1.0
    other_weight: float = 0.1
    embedding_std: float = 0.3
    slow_decay: bool = True


def _mamba(d_model: int) -> d.Description:
    rank = math.ceil(d_model / 16)
    return _decoder(
        "mamba", d_model, d.SelectiveScan(d_inner=2 * d_model, d_state=16, dt_rank=rank)
    )


def _mamba2(d_model: int) -> d.Description:
    return _decoder("mamba2", d_model, d.SSD(n_heads=d_model // 12, head_dim=24, d_state=32))


def _decoder(family: str, d_model: int, mixer: d.Mixer) -> d.Description:
    layers = (d.Layer(mixer, d.Norm()),) * 2
    return d.Description(family, d_model, len(tinyworld.vocabulary()), layers, d.Norm())


RECIPES = {
    "mamba-s": Recipe(_mamba(32), steps=3000),
    "mamba-m": Recipe(_mamba(48), steps=2000),
    "mamba-l": Recipe(_mamba(72), steps=1000),
    "mamba2": Recipe(_mamba2(72), steps=1200, slow_decay=False),
}

LEVELS = (
    tinyworld.Shape(facts=(1, 1), changes=(0, 0), questions=(15, 16), fillers=(0, 0)),
    tinyworld.Shape(facts=(2, 2), changes=(0, 0), questions=(14, 15), fillers=(0, 0)),
    tinyworld.Shape(facts=(2, 3), changes=(0, 1), questions=(12, 14), fillers=(0, 1)),
    tinyworld.Shape(facts=(2, 4), changes=(0, 2), questions=(10, 12)),
    tinyworld.STANDARD,
)
"""Stories of rising difficulty; the last are those that the zoo is for."""


class Curriculum:
    """Moves to harder stories when `mastered` of the answers come out right, or time presses.

    No later than at the start of its equal share of the first half of the steps, a level begins.
    """

    def __init__(self, steps: int, *, mastered: float = 0.85) -> None:
        self.level = 0
        self._steps = steps
        self._mastered = mastered
        self._right = 0.0

    def advance(self, step: int, right: float) -> None:
        """Note the share of right answers at a step; change level where it is time."""
        self._right = 0.9 * self._right + 0.1 * right
        due = int(2 * step / self._steps * (len(LEVELS) - 1))
        last = len(LEVELS) - 1
        if self.level < last and (self._right > self._mastered or due > self.level):
            self.level += 1
            self._right = 0.0
