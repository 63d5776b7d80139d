"""What the zoo's models are and how each is trained, as data; no torch."""

from __future__ import annotations

import dataclasses
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
        slow_decay: begin with A = −1 throughout instead of −(1..N) or −U[1, 16], or, where the
            decay is projected, with 0.993 a word instead of a half: nothing said in a hundred
            words need be forgotten then, and recall is learnt in half the steps.
        look_back: begin with a first layer that brings each word the words just before it and a
            second that matches them; where attention does the recall, it comes too late without.
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
    look_back: bool = False


_NORM, _LAYER_NORM = d.Norm(), d.Norm("layer")


def _mamba(d_model: int) -> d.Description:
    rank = math.ceil(d_model / 16)
    mixer = d.SelectiveScan(d_inner=2 * d_model, d_state=16, dt_rank=rank)
    return _decoder("mamba", d_model, (d.Layer(mixer, _NORM),) * 2)


def _mamba2(d_model: int) -> d.Description:
    mixer = d.SSD(n_heads=d_model // 12, head_dim=24, d_state=32)
    return _decoder("mamba2", d_model, (d.Layer(mixer, _NORM),) * 2)


def _phi_mamba() -> d.Description:
    mlp = d.MLP("gelu_tanh", 128, bias=True)
    layer = d.Layer(_discrete(d_state=16), _LAYER_NORM, mlp, "parallel", one_norm=True)
    layers = (layer,) * 4
    plain = _decoder("phi_mamba", 64, layers, _LAYER_NORM)
    return dataclasses.replace(plain, tie_embeddings=False, head_bias=True)


def _smol_mamba() -> d.Description:
    layer = d.Layer(_discrete(d_state=24), _NORM, d.MLP("swiglu", 96, bias=False))
    return _decoder("smol_mamba", 64, (layer,) * 4)


def _discrete(*, d_state: int) -> d.SSD:
    """Give the mixer of Phi-Mamba and Smol2-Mamba: as many groups as heads, no norm."""
    return d.SSD(
        n_heads=8,
        head_dim=8,
        d_state=d_state,
        n_groups=8,
        discrete=True,
        conv_activation="identity",
        z_bias=True,
        norm_groups=0,
    )


def _hybrid_llama() -> d.Description:
    """Give SSM and attention layers in turn; its layout has as many channels as states a head."""
    mlp = d.MLP("swiglu", 96, bias=False)
    mixer = d.SSD(n_heads=8, head_dim=16, d_state=16, n_groups=4, shared="xb", norm_groups=8)
    attention = d.Attention(
        n_heads=8, n_kv_heads=4, head_dim=16, rotary_dim=16, rope_theta=5e5, bias=False
    )
    layers = (d.Layer(mixer, _NORM, mlp), d.Layer(attention, _NORM, mlp)) * 2
    return _decoder("hybrid_llama", 64, layers)


def _gpt_neox() -> d.Description:
    attention = d.Attention(n_heads=4, n_kv_heads=4, head_dim=16, rotary_dim=4, rope_theta=100.0)
    layer = d.Layer(attention, _LAYER_NORM, d.MLP("gelu", 128, bias=True), "parallel")
    plain = _decoder("gpt_neox", 64, (layer,) * 4, _LAYER_NORM)
    return dataclasses.replace(plain, tie_embeddings=False)


def _decoder(
    family: str, d_model: int, layers: tuple[d.Layer, ...], final: d.Norm = _NORM
) -> d.Description:
    return d.Description(family, d_model, len(tinyworld.vocabulary()), layers, final)


RECIPES = {
    "mamba-s": Recipe(_mamba(32), steps=3000),
    "mamba-m": Recipe(_mamba(48), steps=2000),
    "mamba-l": Recipe(_mamba(72), steps=1000),
    "mamba2": Recipe(_mamba2(72), steps=1200, slow_decay=False),
    "phi-mamba": Recipe(_phi_mamba(), steps=1500, embedding_std=1.0),
    "smol-mamba": Recipe(_smol_mamba(), steps=900, batch=32),
    "hybrid-llama": Recipe(_hybrid_llama(), steps=1000, batch=32, peak_lr=4e-3, look_back=True),
    "gpt-neox": Recipe(
        _gpt_neox(), steps=1500, batch=32, peak_lr=4e-3, embedding_std=1.0, look_back=True
    ),
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
