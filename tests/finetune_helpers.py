"""Small trainings: a compressed model, its teacher, windows of made-up tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from surgery_helpers import MODELS, build, tokens

from ssmbench.finetune import data, train
from ssmbench.grid.fine_tune import Recipe, make_recipe
from ssmbench.models import checkpoint
from ssmbench.models.tokenizer import load_tokenizer
from ssmbench.surgery.projections import apply_mask, keep_largest, projections

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from ssmbench.models.decoder import Decoder

LENGTH = 12


def recipe(kind: str = "kd", **values: Any) -> Recipe:
    small = {"steps": 6, "warmup": 1, "batch": 4, "length": LENGTH, "rank": 2, "alpha": 4.0}
    usual = {"data": "tinyworld", "dtype": "float32", "learning_rate": 1e-2, "log_every": 2}
    if values.get("adapters") == "all" or kind == "dense+sparse":
        small = {name: v for name, v in small.items() if name not in ("rank", "alpha")}
    return make_recipe(kind, **{**usual, **small, **values})


def dense(name: str = "mamba2") -> Decoder:
    return build(MODELS[name])


def zoo() -> Decoder:
    """Give a model that has learnt something, which can be lost and come back."""
    return checkpoint.load("zoo:mamba2")


def pruned(name: str = "mamba2", *, ratio: float = 0.5) -> Decoder:
    """Zero the smaller half of each projection's weights: all families have some."""
    return prune(dense(name), ratio)


def prune(model: Decoder, ratio: float) -> Decoder:
    """Zero that fraction of each projection's smallest weights, in place."""
    for projection in projections(model, "both", "all"):
        weight = projection.module.weight
        apply_mask(weight, keep_largest(weight.abs(), ratio))
    return model


def noisy(name: str = "mamba2") -> Decoder:
    """Give a model that lost something, and has no zeros."""
    model = dense(name)
    generator = torch.Generator().manual_seed(7)
    for projection in projections(model, "both", "all"):
        weight = projection.module.weight
        weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    return model


def windows(name: str = "mamba2", n: int = 10, *, length: int = LENGTH, seed: int = 1):
    vocabulary = MODELS[name].vocab_size
    return tokens(n, length, vocabulary=vocabulary, seed=seed).int()


def stories(n: int, *, length: int = 64) -> tuple[Tensor, Tensor]:
    """Give n windows of TinyWorld to train on, and those held out."""
    wanted = recipe(steps=n, warmup=0, batch=1, length=length)
    return data.windows(wanted, tokenizer=load_tokenizer("zoo:mamba2"))


@dataclass
class Memory:
    """Checkpoints in folders of a test, newest last."""

    folder: Path | None = None
    kept: dict[int, Path] = field(default_factory=dict)

    def latest(self) -> tuple[int, Path] | None:
        return max(self.kept.items(), default=None)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        assert self.folder is not None, "no checkpoint was expected"
        path = self.folder / str(step)
        path.mkdir()
        write(path)
        self.kept[step] = path


def fine_tuned(
    model: Decoder, wanted: Recipe, *, name: str = "mamba2", **options: Any
) -> train.Trained:
    given = {
        "teacher": lambda: dense(name),
        "windows": windows(name),
        "held_out": windows(name, 3, seed=2),
        "keep_zeros": False,
        "batch_tokens": 10_000,
        "seed": 0,
        "report": lambda *_: None,
        "checkpoints": Memory(),
        "checkpoint_s": 1e9,
        **options,
    }
    return train.fine_tune(model, recipe=wanted, **given)
