"""Train a zoo model from scratch: `python -m ssmbench.zoo.train NAME`.

Three things make recall learnable in minutes on one core: many questions inside each story,
answers weighted ten times the other words, and a curriculum over the number of facts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbench.kernels.memory import keep_freed_memory
from ssmbench.models import checkpoint, export
from ssmbench.zoo import tasks, tinyworld, tokenizer
from ssmbench.zoo.recipes import LEVELS, RECIPES, Curriculum, Recipe
from ssmbench.zoo.start import fresh

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ssmbench.models.decoder import Decoder

log = logging.getLogger(__name__)

CHECKPOINTS = Path(__file__).parent / "checkpoints"
DOCUMENTS = 400


class Stream:
    """Rows of consecutive stories, each row beginning with a new story and cut at its end."""

    def __init__(self, recipe: Recipe) -> None:
        self._rng = tinyworld.generator("train", recipe.seed)
        self._ids = {word: i for i, word in enumerate(tinyworld.vocabulary())}
        self._recipe = recipe

    def batch(self, shape: tinyworld.Shape) -> tuple[Tensor, Tensor]:
        """Give ids (batch, length) int64 and the weight of each as a target (same shape)."""
        rows = [self._row(shape) for _ in range(self._recipe.batch)]
        ids, weights = zip(*rows, strict=True)
        return torch.tensor(ids), torch.tensor(weights)

    def _row(self, shape: tinyworld.Shape) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        weights: list[float] = []
        length = self._recipe.length
        while len(ids) < length:
            for sentence in tinyworld.story(self._rng, "train", shape):
                ids += [self._ids[word] for word in sentence.words]
                weights += [
                    1.0 if i in sentence.answers else self._recipe.other_weight
                    for i in range(len(sentence.words))
                ]
        return ids[:length], weights[:length]


def loss_of(model: Decoder, ids: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """Give the weighted loss in nats a word, and the share of answers that come out right."""
    logits = model(ids)[:, :-1]
    target, weight = ids[:, 1:], weights[:, 1:]
    nats = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    loss = (nats * weight.flatten()).sum() / weight.sum()
    answers = weight == 1
    right = (logits.argmax(-1) == target)[answers].float().mean()
    return loss, right.item()


class Progress(NamedTuple):
    """Where training is: steps done, this one's loss in nats and share of right answers."""

    step: int
    loss: float
    right: float
    level: int
    model: Decoder


def train(recipe: Recipe) -> Iterator[Progress]:
    """Train a fresh model, giving account after every step."""
    model = fresh(recipe)
    plain = [p for n, p in model.named_parameters() if p.ndim < 2 or n.endswith("A_log")]
    decayed = [p for n, p in model.named_parameters() if not (p.ndim < 2 or n.endswith("A_log"))]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=recipe.peak_lr,
        betas=(0.9, recipe.beta2),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=recipe.peak_lr, total_steps=recipe.steps, pct_start=recipe.warmup
    )
    stream = Stream(recipe)
    curriculum = Curriculum(recipe.steps)
    for step in range(1, recipe.steps + 1):
        loss, right = loss_of(model, *stream.batch(LEVELS[curriculum.level]))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        schedule.step()
        curriculum.advance(step, right)
        yield Progress(step, loss.item(), right, curriculum.level, model)


def score(folder: Path, *, n: int) -> dict[str, float]:
    """Give a saved model's accuracy on each task, 0–1, over `n` documents of each."""
    from ssmbench.models.tokenizer import load_tokenizer
    from ssmbench.suites import tinyworld as suite
    from ssmbench.suites._context import Context

    def load() -> Decoder:
        return checkpoint.load(f"folder:{folder}").eval()

    with tempfile.TemporaryDirectory() as scratch:
        context = Context(
            model=load(),
            tokenizer=load_tokenizer(str(folder)),
            dense=load,
            data=None,
            limit=None,
            seed=0,
            batch_tokens=8192,
            scratch=Path(scratch),
            report=lambda *_: None,
        )
        with torch.inference_mode():
            result = suite.run(context, suite.Params(n=n))
    return {row["task"]: row["value"] for row in result.metrics if row["metric"] == "acc"}


def make(name: str, recipe: Recipe, folder: Path) -> None:
    """Train a zoo model and write it, with its tokenizer and scores.json, to `folder`."""
    started = time.monotonic()
    recent: list[Progress] = []
    for progress in train(recipe):
        recent.append(progress)
        if progress.step % 50 == 0 or progress.step == recipe.steps:
            loss = sum(p.loss for p in recent) / len(recent)
            right = sum(p.right for p in recent) / len(recent)
            seconds = time.monotonic() - started
            log.info(
                "%s step %d of %d: loss %.3f, right %.3f, level %d, %.0f s",
                *(name, progress.step, recipe.steps, loss, right, progress.level, seconds),
            )
            recent.clear()
    publish(name, recipe, progress.model, folder, train_s=time.monotonic() - started)


def publish(name: str, recipe: Recipe, model: Decoder, folder: Path, *, train_s: float) -> None:
    """Write a trained model, its tokenizer and what it scores to `folder`."""
    export.save(model, folder)
    tokenizer.save(folder)
    scores = score(folder, n=DOCUMENTS)
    report = {
        "accuracy": scores,
        "mean": sum(scores.values()) / len(scores),
        "chance": {task: known.chance for task, known in tasks.KNOWN.items()},
        "chance_mean": sum(known.chance for known in tasks.KNOWN.values()) / len(tasks.KNOWN),
        "documents_per_task": DOCUMENTS,
        "tinyworld": tinyworld.VERSION,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "train_s": round(train_s, 1),
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": f"python -m ssmbench.zoo.train {name} --steps {recipe.steps}",
    }
    (folder / "scores.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    log.info("%s: mean accuracy %.3f, %s", name, report["mean"], scores)


def cpu_name() -> str:
    """Name the processor, as far as this system says it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one zoo model, as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m ssmbench.zoo.train", description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int, help="batches to train on (default: the recipe's)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--out", type=Path, help="folder to write (default: the package's own)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    recipe = RECIPES[options.name]
    if options.steps is not None:
        recipe = dataclasses.replace(recipe, steps=options.steps)
    make(options.name, recipe, options.out or CHECKPOINTS / options.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
