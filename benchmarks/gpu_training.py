"""Tokens a second of distilling a state-pruned model on a GPU, by the training that grids run."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING, Any

import torch

from ssmbench import plugins
from ssmbench.finetune.train import fine_tune
from ssmbench.grid.fine_tune import make_recipe
from ssmbench.kernels import backends
from ssmbench.surgery.context import MethodContext

if TYPE_CHECKING:
    from gpu_check import Check

# The torch forms beside the small models' kernels: the large one's time is better spent on those.
MODELS = (
    ("mamba-130m", "auto"), ("mamba-130m", "torch"),
    ("mamba2-130m", "auto"), ("mamba2-130m", "torch"), ("mamba2-2.7b", "auto"),
)  # fmt: skip
STEPS, WARM_UP = 12, 3


class Nowhere:
    """Keeps no checkpoints."""

    def latest(self) -> None:
        """Give none."""

    def save(self, *_: Any) -> None:
        """Refuse: none is asked for."""
        raise AssertionError


def distil(step: Check) -> list[dict[str, Any]]:
    """Distil each model for a few steps; one row each."""
    from gpu_steps import _model, _release

    rows = []
    for name, backend in MODELS[:1] if step.small else MODELS:
        teacher = _model(step, name)
        dtype = str(teacher.embedding.weight.dtype).removeprefix("torch.")
        with backends.using(backend, step.device, dtype), backends.recording() as used:
            found = _train(teacher, small=step.small)
        rows.append({"model": name, "asked": backend, "backend": used.text} | found)
        step.say(f"{name} on {used.text}: {found['tokens_per_s']:.0f} tokens/s")
        del teacher
        _release()
    return rows


def _train(teacher: Any, *, small: bool) -> dict[str, Any]:
    device = teacher.device
    student = copy.deepcopy(teacher)
    method = plugins.load("method", "state")
    context = MethodContext(seed=0, calibration=None)
    method.compress(student, ratio=0.5, params=method.Params(score="magnitude"), context=context)
    batch, length = (2, 32) if small else (6, 2048)
    recipe = make_recipe(
        "kd",
        data="wikitext",
        steps=STEPS,
        batch=batch,
        length=length,
        dtype=str(teacher.embedding.weight.dtype).removeprefix("torch."),
    )
    draw = torch.Generator().manual_seed(0)
    vocabulary = teacher.description.vocab_size
    windows = torch.randint(vocabulary, (STEPS * batch + 2, length), generator=draw)
    stamps: list[float] = []

    def stamp(*_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        stamps.append(time.perf_counter())

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trained = fine_tune(
        student,
        teacher=lambda: teacher,
        recipe=recipe,
        windows=windows[2:],
        held_out=windows[:2],
        keep_zeros=False,
        batch_tokens=batch * length,
        seed=0,
        report=stamp,
        checkpoints=Nowhere(),
        checkpoint_s=math.inf,
    )
    seconds = stamps[-1] - stamps[WARM_UP - 1]
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "batch": batch,
        "length": length,
        "tokens_per_s": (len(stamps) - WARM_UP) * batch * length / seconds,
        "loss_before": trained.loss_before,
        "loss_after": trained.loss_after,
        "peak_bytes": peak,
    }
