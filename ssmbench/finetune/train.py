"""The training of a compressed model: steps, checkpoints, and an end that leaves a plain model.

A step's gradient is that of one batch however many windows run at once. On a CPU a training
that was killed and continued ends with the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ssmbench.errors import MethodError, NumericalError
from ssmbench.finetune import adapters, checkpoint
from ssmbench.finetune.loop import Loop
from ssmbench.finetune.objectives import (
    CrossEntropy,
    DenseAndSparse,
    Distillation,
    share_equal,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from ssmbench.finetune.checkpoint import Checkpoints
    from ssmbench.finetune.loop import Report
    from ssmbench.finetune.objectives import Objective
    from ssmbench.grid.fine_tune import Recipe
    from ssmbench.models.decoder import Decoder

log = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        rows: the loss curve: step, loss, dense_loss, sparse_loss, learning_rate, gradient_norm,
            tokens, seconds.
        loss_before: over the held-out windows, before the first step.
        loss_after: the same of the model with everything merged.
        n_held_out: windows.
        tensors: what was trained, by the names of `adapters.attach`, on the CPU.
    """

    rows: list[Row]
    loss_before: float
    loss_after: float
    n_held_out: int
    tensors: dict[str, Tensor]


def fine_tune(
    model: Decoder,
    *,
    teacher: Callable[[], Decoder],
    recipe: Recipe,
    windows: Tensor,
    held_out: Tensor,
    keep_zeros: bool,
    batch_tokens: int,
    seed: int,
    report: Report,
    checkpoints: Checkpoints,
    checkpoint_s: float,
) -> Trained:
    """Train a compressed model in place.

    Afterwards it is as plain as before: the same modules and names, in evaluation mode, nothing
    requiring a gradient.

    Args:
        model: compressed, of any precision.
        teacher: loads the uncompressed model; called for "kd" alone.
        recipe: how; a `dtype` of None computes as the model does.
        windows: (n, length) int, to train on.
        held_out: (m, length) int, for the loss before and after.
        keep_zeros: zeros of unstructured pruning stay zero.
        batch_tokens: tokens that may run at once; at least one window does.
        seed: of the windows' order, the adapters and dropout.
        report: called after each step.
        checkpoints: continued from the newest, and added to.
        checkpoint_s: seconds from one checkpoint to the next.

    Raises:
        MethodError: nothing to train, or something that no gradient reaches.
        NumericalError: the loss is not finite, or 10 times what it was.
    """
    computed = recipe.dtype or str(model.compute_dtype).removeprefix("torch.")
    if computed == "float16":
        raise MethodError(
            "fine-tuning: found dtype float16, in which gradients underflow; expected bfloat16 or "
            "float32. Set `dtype` of the `fine_tune` entry."
        )
    at_once = max(1, batch_tokens // recipe.length)
    started = checkpoints.latest()
    objective = _objective(model, teacher, recipe, seed)
    if started is None:
        loss_before = evaluate(objective, model, held_out, at_once)
    with _trainable(model, recipe, seed, keep_zeros=keep_zeros) as trained:
        loop = Loop(model, objective, recipe, trained, windows, at_once, seed, report)
        if keep_zeros and recipe.adapters == "all":
            loop.zeros = adapters.Zeros(model, trained)
        adapters.check_gradients(trained, loop.probe)
        if started is None:
            torch.manual_seed(seed)
            loop.numbers = checkpoint.Numbers(0, loss_before, start=loss_before)
        else:
            loop.numbers = checkpoint.read(started[1], trained, loop.optimiser)
            log.info("fine-tuning: goes on after step %d, from %s", *started)
        loop.run(checkpoints, checkpoint_s)
        tensors = {name: p.detach().cpu().clone() for name, p in trained.items()}
    adapters.merge(model, recipe, tensors, keep_zeros=keep_zeros)
    loss_after = evaluate(objective, model, held_out, at_once)
    numbers = loop.numbers
    return Trained(numbers.rows, numbers.loss_before, loss_after, len(held_out), tensors)


def apply_trained(
    model: Decoder, recipe: Recipe, tensors: Mapping[str, Tensor], *, keep_zeros: bool
) -> None:
    """Make of a compressed model what `fine_tune` made of it: the same bits.

    Args:
        model: as it was when that training began.
        recipe: that of the training.
        tensors: what it gave.
        keep_zeros: as it was then.
    """
    adapters.merge(model, recipe, tensors, keep_zeros=keep_zeros)


@torch.no_grad()
def evaluate(objective: Objective, model: Decoder, windows: Tensor, at_once: int) -> float:
    """Give the mean loss over windows (n, length), `at_once` of them at a time.

    Raises:
        NumericalError: it is not finite.
    """
    total = 0.0
    model.eval()
    for i in range(0, len(windows), at_once):
        ids = windows[i : i + at_once].long().to(model.device)
        numbers = range(i - len(windows), i - len(windows) + len(ids))
        total += len(ids) * float(objective(model, ids, numbers).total)
    if not math.isfinite(total):
        raise NumericalError(
            f"fine-tuning: found a loss of {total:g} over the held-out windows; expected a number."
        )
    return total / len(windows)


def _objective(
    model: Decoder, teacher: Callable[[], Decoder], recipe: Recipe, seed: int
) -> Objective:
    if recipe.kind == "ce":
        return CrossEntropy()
    if recipe.kind == "dense+sparse":
        assert recipe.ratios is not None
        low, high = recipe.ratios
        return DenseAndSparse(model, (low, high), seed=seed)
    assert recipe.temperature is not None
    dense = teacher().eval().requires_grad_(requires_grad=False)
    if recipe.adapters == "lora":
        # What trains are the adapters: nothing is written to the weights until they are merged.
        log.info("fine-tuning: the teacher shares %.1f MB", share_equal(dense, model) / 1e6)
    return Distillation(dense, temperature=recipe.temperature)


@contextlib.contextmanager
def _trainable(
    model: Decoder, recipe: Recipe, seed: int, *, keep_zeros: bool
) -> Iterator[dict[str, nn.Parameter]]:
    """Make a model trainable, and plain again at the end, whatever happens."""
    own = {name: parameter.dtype for name, parameter in model.named_parameters()}
    if _trains_in_float32(recipe):
        model.float()
    try:
        trained = adapters.attach(model, recipe, seed=seed, keep_zeros=keep_zeros)
        model.train()
        yield trained
    finally:
        adapters.detach(model)
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(own[name])


def _trains_in_float32(recipe: Recipe) -> bool:
    """Say whether the weights are float32 while they train, whatever they are computed in.

    In half precision most steps would be too small to change a weight.
    """
    return recipe.adapters == "all" or recipe.dtype == "float32"
