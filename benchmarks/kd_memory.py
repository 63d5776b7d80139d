"""Peak memory of the distillation loss in pieces, against the plain formula on whole logits.

    python benchmarks/kd_memory.py [--vocabulary 50288] [--length 2048] [--batches 1 2]
        [--d-model 768] [--turns 3] [--out FILE]

Each form runs, forwards and backwards, in a process of its own. `added` is what its peak lies above
what the process held just before: hidden states and heads are there already, and so is all that
torch is. `process` is the peak itself. The heads are frozen, as they are with LoRA, and teacher
and student have one each. Both forms must give the same loss and gradient, else there is no result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssmbench.finetune.losses import kd_loss, naive_kd_loss

FORMS = ("plain", "pieces")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=50288)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--turns", type=int, default=3, help="processes of each form")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.form:
        print(json.dumps(measure(args.form, args)))
        return
    results = [compare(batch, args) for batch in args.batches]
    if args.out:
        command = vars(args) | {"out": None}
        report = {"machine": machine(), "command": command, "results": results}
        args.out.write_text(json.dumps(report, indent=1) + "\n")


def compare(batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Run both forms in turn, each time anew; the largest peak of each counts."""
    found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for _ in range(args.turns):
        for form in FORMS:
            found[form].append(elsewhere(form, batch, args))
    plain, pieces = (found[form][0] for form in FORMS)
    for name in ("loss", "gradient_norm"):
        if not math.isclose(plain[name], pieces[name], rel_tol=1e-4):
            raise SystemExit(f"batch {batch}: {name} {plain[name]} plain, {pieces[name]} in pieces")
    row: dict[str, Any] = {"batch": batch, "loss": plain["loss"]}
    for form in FORMS:
        for name in ("added_mb", "process_mb"):
            row[f"{form}_{name}"] = round(max(r[name] for r in found[form]), 1)
        row[f"{form}_seconds"] = round(min(r["seconds"] for r in found[form]), 2)
    for name in ("added_mb", "process_mb", "seconds"):
        row[f"ratio_{name.removesuffix('_mb')}"] = round(
            row[f"pieces_{name}"] / row[f"plain_{name}"], 3
        )
    print(json.dumps(row), flush=True)
    return row


def elsewhere(form: str, batch: int, args: argparse.Namespace) -> dict[str, float]:
    """Measure one form in a new process."""
    command = [sys.executable, __file__, "--form", form, "--batches", str(batch)]
    for name in ("vocabulary", "length", "d_model"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, float] = json.loads(done.stdout)
    return row


def measure(form: str, args: argparse.Namespace) -> dict[str, float]:
    """Take the loss and its gradient once."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.batches[0], args.length, args.d_model)
    student, teacher = (nn.Linear(args.d_model, args.vocabulary, bias=False) for _ in range(2))
    for head in (student, teacher):
        nn.init.normal_(head.weight, std=args.d_model**-0.5, generator=generator)
        head.requires_grad_(requires_grad=False)
    hidden = torch.randn(shape, generator=generator).requires_grad_()
    aim = torch.randn(shape, generator=generator)
    (hidden[:, :1] @ student.weight.T).sum().backward()  # what a first product sets up for good
    hidden.grad = None
    before, start = resident(), time.perf_counter()
    if form == "plain":
        with torch.no_grad():
            expected = teacher(aim)
        loss = naive_kd_loss(student(hidden), expected, None)
        del expected
    else:
        loss = kd_loss(hidden, student, aim, teacher, None)
    loss.backward()
    seconds = time.perf_counter() - start
    assert hidden.grad is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "loss": loss.item(),
        "gradient_norm": hidden.grad.norm().item(),
        "added_mb": peak - before,
        "process_mb": peak,
        "seconds": seconds,
    }


def resident() -> float:
    """Give the memory that this process holds, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def machine() -> dict[str, Any]:
    """Say what this ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
