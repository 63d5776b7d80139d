"""Tokens a second of fine-tuning, ours against a plain Hugging Face Trainer loop.

    OMP_NUM_THREADS=1 python benchmarks/training_throughput.py [--models zoo-mamba2 zoo-mamba-l]
        [--batch 8] [--length 128] [--steps 30] [--turns 5] [--chunks 256 64] [--out FILE]

Both train the same state-pruned model (`--ratio`, 0.5) on the same windows: LoRA by peft on in_proj
and out_proj, AdamW, linear schedule, and the KL divergence from the unpruned model. The loop of
transformers has the pruned and the dense model in transformers' own classes, exported with
`ssmbench.save(…, layout="transformers")`, and a `compute_loss` on whole logits. peft refuses
out_proj of transformers' Mamba classes, whose CUDA kernels pass it by; on a CPU they do call it, so
the adapters are put into the layers beneath the class that it looks at.

transformers' Mamba-2 works on `chunk_size` positions at once and pads to a multiple of it. 256, the
default of its config, suits GPUs; on a CPU less is faster: `--chunks` tries several, and the
Trainer's best counts.

Each turn runs all, each in a process of its own. The first steps of a process warm up and are not
counted. `cpu` counts the process's own processor time instead of the clock's: with one thread and
a busy machine the steadier figure. The loss of the first windows must be the same in both, else
there is no result.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import ssmbench
from ssmbench.execute.compress import tokenizer_of
from ssmbench.finetune import data
from ssmbench.finetune.losses import naive_kd_loss
from ssmbench.grid.fine_tune import Recipe, make_recipe
from ssmbench.kernels.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

SIDES = ("trainer", "ours")
CLOCKS = ("wall", "cpu")
WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["zoo-mamba2", "zoo-mamba-l"])
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=30, help="counted steps of a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--chunks", nargs="+", type=int, default=[256, 64])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(run(args.side, args)))
        return
    results = [compare(model, args) for model in args.models]
    if args.out:
        command = vars(args) | {"out": None}
        report = {"machine": machine(), "command": command, "results": results}
        args.out.write_text(json.dumps(report, indent=1) + "\n")


def compare(model: str, args: argparse.Namespace) -> dict[str, Any]:
    """Let all take turns; give tokens a second, and ours' ratio to each other within a turn."""
    chunks = args.chunks if "mamba2" in model else args.chunks[:1]
    kinds = [("ours", 0), *(("trainer", chunk) for chunk in chunks)]
    found: dict[tuple[str, int], list[dict[str, float]]] = {kind: [] for kind in kinds}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        prepare(model, args.ratio, Path(folder))
        for turn in range(args.turns):
            for kind in kinds if turn % 2 else kinds[::-1]:
                found[kind].append(elsewhere(*kind, model, Path(folder), args))
    ours = found.pop(kinds[0])
    row: dict[str, Any] = {"model": model, "first_loss": ours[0]["loss"]}
    row["ours_tokens_per_s"] = {c: spread([turn[c] for turn in ours]) for c in CLOCKS}
    row["trainer"] = []
    for (_, chunk), turns in found.items():
        if not math.isclose(turns[0]["loss"], ours[0]["loss"], rel_tol=1e-3):
            raise SystemExit(f"{model}: first losses {turns[0]['loss']} and {ours[0]['loss']}")
        each: dict[str, Any] = {"chunk_size": chunk} if len(chunks) > 1 else {}
        for clock in CLOCKS:
            pairs = [(a[clock], b[clock]) for a, b in zip(turns, ours, strict=True)]
            each[clock] = {
                "tokens_per_s": spread([theirs for theirs, _ in pairs]),
                "ratio": spread([mine / theirs for theirs, mine in pairs]),
            }
        row["trainer"].append(each)
    row["load_average"] = [round(load, 2), round(os.getloadavg()[0], 2)]
    print(json.dumps(row), flush=True)
    return row


def prepare(model: str, ratio: float, folder: Path) -> None:
    """Write the dense and the pruned model, in both layouts."""
    dense = ssmbench.load(model)
    pruned = ssmbench.compress(dense, "state", ratio)
    for name, made in (("dense", dense), ("pruned", pruned)):
        ssmbench.save(made, folder / "ours" / name, layout="ssmbench")
        ssmbench.save(made, folder / "trainer" / name, layout="transformers")


def elsewhere(
    side: str, chunk: int, model: str, folder: Path, args: argparse.Namespace
) -> dict[str, float]:
    """Train in a new process."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    command += ["--models", model, "--chunks", str(chunk)]
    for name in ("batch", "length", "steps"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def run(side: str, args: argparse.Namespace) -> dict[str, float]:
    """Train; give tokens a second by both clocks, and the loss of the first windows."""
    recipe = make_recipe(
        "kd",
        data="tinyworld",
        steps=args.steps + WARM_UP,
        batch=args.batch,
        length=args.length,
        dtype="float32",
    )
    tokenizer = tokenizer_of(ssmbench.load(args.models[0]))
    windows, held_out = data.windows(recipe, tokenizer=tokenizer)
    stamps: list[tuple[float, float]] = []

    def stamp() -> None:
        stamps.append((time.perf_counter(), time.process_time()))

    train = {"ours": ours, "trainer": partial(trainer, chunk=args.chunks[0])}[side]
    loss = train(args.folder / side, recipe, windows, held_out, stamp)
    (wall, cpu), (end_wall, end_cpu) = stamps[WARM_UP - 1], stamps[-1]
    tokens = (len(stamps) - WARM_UP) * args.batch * args.length
    return {"wall": tokens / (end_wall - wall), "cpu": tokens / (end_cpu - cpu), "loss": loss}


class Nowhere:
    """Keeps no checkpoints."""

    def latest(self) -> None:
        return None

    def save(self, *_: Any) -> None:
        raise AssertionError


def ours(
    folder: Path, recipe: Recipe, windows: Tensor, held_out: Tensor, stamp: Callable[[], None]
) -> float:
    from ssmbench.finetune.train import fine_tune

    keep_freed_memory()  # as every attempt of a grid does
    model = ssmbench.load(str(folder / "pruned"))
    trained = fine_tune(
        model.requires_grad_(requires_grad=False),
        teacher=lambda: ssmbench.load(str(folder / "dense")),
        recipe=recipe,
        windows=windows,
        held_out=held_out,
        keep_zeros=False,
        batch_tokens=16384,
        seed=0,
        report=lambda *_: stamp(),
        checkpoints=Nowhere(),
        checkpoint_s=math.inf,
    )
    return trained.loss_before


def trainer(
    folder: Path,
    recipe: Recipe,
    windows: Tensor,
    held_out: Tensor,
    stamp: Callable[[], None],
    *,
    chunk: int,
) -> float:
    import transformers
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoModelForCausalLM

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    dense, pruned = (
        AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)
        for name in ("dense", "pruned")
    )
    dense.eval().requires_grad_(requires_grad=False)
    for model in (dense, pruned):
        for block in model.backbone.layers:
            block.mixer.chunk_size = chunk  # read by Mamba-2 alone
    with torch.no_grad():
        ids = held_out.long()
        loss = naive_kd_loss(pruned.eval()(ids).logits, dense(ids).logits, None).item()
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=["in_proj", "out_proj"],
    )
    pruned.requires_grad_(requires_grad=False)
    inject_adapter_in_model(config, pruned.backbone.layers)

    class Distilling(transformers.Trainer):
        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], **_: Any) -> Tensor:
            with torch.no_grad():
                aim = dense(**inputs).logits
            return naive_kd_loss(model(**inputs).logits, aim, None)

    class Stamp(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamp()

    with tempfile.TemporaryDirectory() as scratch:
        arguments = transformers.TrainingArguments(
            output_dir=scratch,
            use_cpu=True,
            per_device_train_batch_size=recipe.batch,
            max_steps=recipe.steps,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.clip,
            lr_scheduler_type="linear",
            warmup_steps=recipe.warmup,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        Distilling(
            pruned,
            arguments,
            train_dataset=[{"input_ids": row.long()} for row in windows],
            callbacks=[Stamp()],
        ).train()
    return loss


def spread(values: list[float]) -> dict[str, float]:
    """Give the median and the quartiles; of fewer than three values, the ends."""
    ends = (min(values), max(values))
    lower, *_, upper = statistics.quantiles(values, n=4) if len(values) > 2 else ends
    names, parts = ("median", "lower", "upper"), (statistics.median(values), lower, upper)
    return {name: round(part, 3) for name, part in zip(names, parts, strict=True)}


def machine() -> dict[str, Any]:
    """Say what this ran on."""
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
