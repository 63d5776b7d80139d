"""The steps of a training, one after another, and what keeps them safe from interruptions."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ssmbench.errors import NumericalError, SsmbenchError
from ssmbench.finetune import checkpoint, data
from ssmbench.finetune.interrupts import undisturbed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from ssmbench.finetune.adapters import Zeros
    from ssmbench.finetune.checkpoint import Checkpoints
    from ssmbench.finetune.objectives import Objective
    from ssmbench.grid.fine_tune import Recipe
    from ssmbench.models.decoder import Decoder

log = logging.getLogger(__name__)

DIVERGED = 10.0
"""A loss this many times as large as at the start ends the training."""

_HALF = {"bfloat16": torch.bfloat16}


class Report(Protocol):
    """Takes in how far the training is."""

    def __call__(self, step: str, done: int, total: int, note: str = "", /) -> None:
        """Take in what is done, steps done, of how many, and loss and speed."""


class Loop:
    """A training between two checkpoints.

    Attributes:
        numbers: how far it is; set before `run`.
        optimiser: AdamW over what trains.
        zeros: put back after each step, where there are any.
    """

    numbers: checkpoint.Numbers
    zeros: Zeros | None = None

    def __init__(
        self,
        model: Decoder,
        objective: Objective,
        recipe: Recipe,
        trained: Mapping[str, nn.Parameter],
        windows: Tensor,
        at_once: int,
        seed: int,
        report: Report,
    ) -> None:
        """Make a loop.

        Args:
            model: with `trained` among its parameters.
            objective: the loss.
            recipe: how to train.
            trained: what trains, by name.
            windows: (n, length) int.
            at_once: windows that one pass may hold; a batch is taken in as many as it needs.
            seed: of the windows' order.
            report: called after each step.
        """
        self._model, self._objective, self._recipe = model, objective, recipe
        self._trained, self._windows, self._seed = trained, windows, seed
        self._at_once, self._report = at_once, report
        self.optimiser = optimiser_of(trained, recipe)
        self._states: Mapping[str, Tensor] = {}
        self._torn = False

    def run(self, checkpoints: Checkpoints, checkpoint_s: float) -> None:
        """Do the steps that are left.

        A checkpoint is made every `checkpoint_s` seconds and wherever an error or a stop ends
        the training that is not the training's own fault.

        Raises:
            NumericalError: the loss is not finite, or 10 times what it was.
        """
        began_s = saved_s = time.monotonic()
        first, seconds = self.numbers.step, self.numbers.seconds
        self._states = checkpoint.generators(self._model.device)
        try:
            while self.numbers.step < self._recipe.steps:
                self._step(lambda: seconds + time.monotonic() - began_s)
                self._tell(self.numbers.step - first, time.monotonic() - began_s)
                if time.monotonic() - saved_s >= checkpoint_s:
                    self._save(checkpoints)
                    saved_s = time.monotonic()
        except SsmbenchError:
            raise
        except BaseException:
            self._save_at_end(checkpoints)
            raise

    def probe(self) -> None:
        """Run the loss of the first window there and back, without dropout, for its gradients."""
        self._model.eval()
        self._backward([0], 0, 1)
        self._model.train()

    def _step(self, seconds: Any) -> None:
        """Do one step; until its last line all that a checkpoint holds is that of the one before.

        Raises:
            NumericalError: the loss is not finite, or too large.
        """
        recipe, step = self._recipe, self.numbers.step
        size = recipe.batch
        chosen = data.order(len(self._windows), size=size, step=step, seed=self._seed)
        losses = [
            self._backward(chosen[i : i + self._at_once], step * size + i, size)
            for i in range(0, size, self._at_once)
        ]
        loss = [math.fsum(part) for part in zip(*losses, strict=True)]
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained.values(), recipe.clip))
        self._check(loss[0], norm)
        rate = learning_rate(recipe, step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with undisturbed():
            self._torn = True
            self.optimiser.step()
            self.optimiser.zero_grad()
            if self.zeros is not None:
                self.zeros.restore()
            self._note(loss, norm, rate, seconds())
            self._states = checkpoint.generators(self._model.device)
            self._torn = False

    def _backward(self, chosen: list[int], number: int, size: int) -> list[float]:
        """Add the gradient of some windows' share in a batch; give their share in its loss."""
        ids = self._windows[chosen].long().to(self._model.device)
        share = len(chosen) / size
        with self._computing():
            loss = self._objective(self._model, ids, range(number, number + len(chosen)))
        (loss.total * share).backward()
        return [float(part.detach()) * share for part in loss if part is not None]

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Compute projections in the recipe's half precision, where the weights have more."""
        half = _HALF.get(self._recipe.dtype or "")
        if half is None or self._model.embedding.weight.dtype == half:
            yield
            return
        with torch.autocast(self._model.device.type, half):
            yield

    def _check(self, loss: float, norm: float) -> None:
        start, step = self.numbers.start, self.numbers.step + 1
        if not math.isfinite(loss) or (step > 1 and loss > DIVERGED * start):
            raise NumericalError(
                f"fine-tuning: step {step}: found a loss of {loss:.4g}; it began at {start:.4g}, "
                f"and {DIVERGED:g} times that is taken for divergence. Lower `learning_rate` or "
                "lengthen `warmup`."
            )
        if not math.isfinite(norm):
            raise NumericalError(
                f"fine-tuning: step {step}: found gradients of norm {norm:g} at a loss of "
                f"{loss:.4g}; it began at {start:.4g}. Lower `learning_rate` or choose a wider "
                "`dtype`."
            )

    def _note(self, loss: list[float], norm: float, rate: float, seconds: float) -> None:
        """Count a step, and add a row to the curve where one is due."""
        numbers, recipe = self.numbers, self._recipe
        numbers.step += 1
        numbers.seconds = seconds
        if numbers.step == 1:
            numbers.start = max(numbers.start, loss[0])
        numbers.recent.append(loss)
        if numbers.step % recipe.log_every and numbers.step < recipe.steps:
            return
        means = [math.fsum(part) / len(part) for part in zip(*numbers.recent, strict=True)]
        dense, sparse = means[1:] or (None, None)
        numbers.rows.append(
            {
                "step": numbers.step,
                "loss": means[0],
                "dense_loss": dense,
                "sparse_loss": sparse,
                "learning_rate": rate,
                "gradient_norm": norm,
                "tokens": numbers.step * recipe.batch * recipe.length,
                "seconds": seconds,
            }
        )
        numbers.recent.clear()

    def _tell(self, done: int, seconds: float) -> None:
        numbers, recipe = self.numbers, self._recipe
        loss = (numbers.recent or [[numbers.rows[-1]["loss"]]])[-1][0]
        tokens_per_s = done * recipe.batch * recipe.length / max(seconds, 1e-9)
        left_s = (recipe.steps - numbers.step) * seconds / done
        note = f"loss {loss:.3f} · {_short(tokens_per_s)} tokens/s · {_duration(left_s)} left"
        self._report("fine-tune", numbers.step, recipe.steps, note)

    def _save(self, checkpoints: Checkpoints) -> None:
        with undisturbed():
            checkpoints.save(
                self.numbers.step,
                lambda folder: checkpoint.write(
                    folder, self.numbers, self._trained, self.optimiser, self._states
                ),
            )

    def _save_at_end(self, checkpoints: Checkpoints) -> None:
        """Save what a stop or a full memory would lose; whatever goes wrong, that comes first."""
        if self._torn:
            return
        try:
            self._save(checkpoints)
            log.info("fine-tuning: stopped after step %d; it is kept", self.numbers.step)
        except Exception:
            # The error that ended the training is the one to be told.
            log.warning("fine-tuning: no checkpoint could be made at the stop", exc_info=True)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Give a step's learning rate, steps counted from 0.

    Source: transformers' get_linear_schedule_with_warmup and its cosine and constant siblings,
    by which the papers' models were trained; the first step of a warm-up has 0.
    """
    if step < recipe.warmup:
        return recipe.learning_rate * step / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    match recipe.schedule:
        case "linear":
            share = 1 - done
        case "cosine":
            share = 0.5 * (1 + math.cos(math.pi * done))
        case "constant":
            share = 1.0
    return recipe.learning_rate * share


def optimiser_of(trained: Mapping[str, nn.Parameter], recipe: Recipe) -> torch.optim.AdamW:
    """Make AdamW, by which matrices decay, and neither biases, norms and steps nor A do."""
    decays = {n: p.ndim >= 2 and not n.endswith("A_log") for n, p in trained.items()}
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in trained.items() if decays[n]]},
        {"params": [p for n, p in trained.items() if not decays[n]], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def _short(tokens_per_s: float) -> str:
    return f"{tokens_per_s / 1000:.1f} k" if tokens_per_s >= 1000 else f"{tokens_per_s:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
