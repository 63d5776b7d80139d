"""Time our LM against lm-eval's HFLM on the six tasks, with the same weights in one run.

    python benchmarks/six_tasks.py --data DIR --limit 8

A random-weight mamba2-130m (or mamba-130m) is made in transformers' layout and loaded by both.
For each task both score the same requests, tokenization included, taking turns. Only the
ratios mean anything on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval.models.huggingface import HFLM

from ssmbench.models import checkpoint
from ssmbench.suites._lm import DecoderLM
from ssmbench.suites._tasks import load_tasks
from ssmbench.suites.zero_shot import SIX

RESULTS = Path(__file__).parent / "results"
SHAPES = {
    "mamba2-130m": transformers.Mamba2Config(
        vocab_size=50288, hidden_size=768, num_hidden_layers=24, num_heads=24, head_dim=64,
        state_size=128, n_groups=1, tie_word_embeddings=True,
    ),
    "mamba-130m": transformers.MambaConfig(
        vocab_size=50280, hidden_size=768, num_hidden_layers=24, state_size=16
    ),
}  # fmt: skip


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        args.tokenizer or args.data / "tokenizers/gpt-neox-20b"
    )
    theirs, ours = both_models(args.model, args.device)
    if args.hf_chunk_size:
        for layer in theirs.backbone.layers:
            layer.mixer.chunk_size = args.hf_chunk_size
    reference = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=args.batch_size)
    shared = DecoderLM(ours, tokenizer, batch_tokens=args.batch_tokens)
    rows = []
    print(f"{'task':16}{'requests':>9}{'ours s':>9}{'HFLM s':>9}{'ratio':>7}{'max Δ nats':>12}")
    for task in args.tasks:
        row = compare(task, requests_of(task, args), shared, reference, args.repeats)
        rows.append(row)
        print(
            f"{task:16}{row['n_requests']:9}{row['ours_s']:9.2f}{row['hflm_s']:9.2f}"
            f"{row['ratio']:7.2f}{row['max_difference_nats']:12.1e}",
            flush=True,
        )
    total = {key: sum(row[key] for row in rows) for key in ("n_requests", "ours_s", "hflm_s")}
    ratio = total["hflm_s"] / total["ours_s"]
    print(
        f"{'all':16}{total['n_requests']:9}{total['ours_s']:9.2f}{total['hflm_s']:9.2f}{ratio:7.2f}"
    )
    about = {
        key: str(value) for key, value in vars(args).items() if key not in ("data", "tokenizer")
    }
    write(args.model, {"arguments": about, "machine": machine(args.device), "tasks": rows})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of local task data")
    parser.add_argument("--tokenizer", help="default: tokenizers/gpt-neox-20b in the data folder")
    parser.add_argument("--model", choices=SHAPES, default="mamba2-130m")
    parser.add_argument("--tasks", nargs="+", default=list(SIX))
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16, help="HFLM's, in requests")
    parser.add_argument(
        "--hf-chunk-size",
        type=int,
        help="transformers' Mamba-2 pads every call to 256 tokens; 64 is faster on a CPU",
    )
    parser.add_argument("--batch-tokens", type=int, default=2048, help="ours")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def both_models(name: str, device: str) -> tuple[Any, Any]:
    """Make random weights and load them as a transformers model and as ours."""
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(SHAPES[name]).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = checkpoint.load(folder, device=device)
    return theirs.to(device), ours


def requests_of(task: str, args: argparse.Namespace) -> list[Any]:
    """Build the requests of a task's first documents."""
    loaded = load_tasks([task], shots=0, data=args.data, configs={}).tasks[task]
    loaded.build_all_requests(limit=args.limit)
    return list(loaded.instances)


def compare(
    task: str, requests: list[Any], ours: DecoderLM, theirs: HFLM, repeats: int
) -> dict[str, Any]:
    """Score the requests by both in turns; gives the least time of each and their ratio."""
    seconds: dict[str, list[float]] = {"ours": [], "hflm": []}
    scores: dict[str, list[tuple[float, bool]]] = {}
    for turn in range(repeats):
        order = [("ours", ours), ("hflm", theirs)]
        for name, lm in order if turn % 2 == 0 else order[::-1]:
            start = time.perf_counter()
            scores[name] = lm.loglikelihood(requests, disable_tqdm=True)
            seconds[name].append(time.perf_counter() - start)
    pairs = list(zip(scores["ours"], scores["hflm"], strict=True))
    return {
        "task": task,
        "n_requests": len(requests),
        "ours_s": min(seconds["ours"]),
        "hflm_s": min(seconds["hflm"]),
        "ratio": min(seconds["hflm"]) / min(seconds["ours"]),
        "max_difference_nats": max(abs(a[0] - b[0]) for a, b in pairs),
        "greedy_differs": sum(bool(a[1]) != bool(b[1]) for a, b in pairs),
        "raw_s": seconds,
    }


def machine(device: str) -> dict[str, Any]:
    """Say what ran this."""
    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write(model: str, found: dict[str, Any]) -> None:
    """Write the figures beside this file."""
    RESULTS.mkdir(exist_ok=True)
    device = "cuda" if found["arguments"]["device"].startswith("cuda") else "cpu"
    chunk = found["arguments"]["hf_chunk_size"]
    setting = "" if chunk in (None, "None") else f"_hf_chunk{chunk}"
    path = RESULTS / f"six_tasks_{model}_{device}{setting}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
