"""How much longer a whole mixer takes than its own projections.

    python benchmarks/mixers.py [--turns 15] [--out FILE]

One mixer of mamba2-130m's and of mamba-130m's sizes with random weights, B prompts of L tokens,
states out; beside it the same matrix products alone (`ssmbench.suites._gemms`) and transformers'
mixer of the same sizes. They take turns: with one thread by the process's own processor time,
with all by the clock. Ratios are of each turn.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import targets
import torch
from measuring import Report, spread, take_turns
from transformers import Mamba2Config, MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from ssmbench.grid.catalogue import find
from ssmbench.kernels.memory import keep_freed_memory
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest
from ssmbench.models.initialise import initialise
from ssmbench.suites._gemms import Watched, replay

if TYPE_CHECKING:
    from torch import nn

MODELS = ("mamba2-130m", "mamba-130m")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a trial: two turns of short prompts")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.batch, args.length, args.turns = 2, 64, 2
    keep_freed_memory()  # as every attempt of a grid does
    report = Report("mixers")
    most = torch.get_num_threads()
    for name in MODELS:
        for threads in sorted({1, most}):
            torch.set_num_threads(threads)
            compare(report, name, args, threads)
    torch.set_num_threads(most)
    report.write(args.out)


def compare(report: Report, name: str, args: argparse.Namespace, threads: int) -> None:
    """Time one mixer, its products and transformers'."""
    description = find(name).describe()
    assert description is not None
    model = Decoder(replace(description, layers=description.layers[:1])).eval()
    initialise(model, seed=0)
    mixer = model.layers[0].mixer
    theirs = peer(name)
    d_model = description.d_model
    x = torch.randn(args.batch, args.length, d_model, generator=torch.Generator().manual_seed(0))
    forest = Forest.batch(torch.zeros(args.batch, args.length, dtype=torch.int64))
    flat = x.flatten(0, 1)
    with torch.inference_mode():
        with Watched(model) as watched:
            mixer(flat, forest, None)
        works = {
            "gemm": replay(watched.gemms, x.device),
            "ours": lambda: mixer(flat, forest, None),
            "transformers": lambda: theirs(x),
        }
        clock = time.process_time if threads == 1 else time.perf_counter
        took = take_turns(works, turns=args.turns, clock=clock)
    over = [ours / gemm for ours, gemm in zip(took["ours"], took["gemm"], strict=True)]
    peers = [hf / gemm for hf, gemm in zip(took["transformers"], took["gemm"], strict=True)]
    clock_name = "cpu" if threads == 1 else "wall"
    target = targets.mixer(name, clock_name, batch=args.batch, length=args.length)
    report.targets[target] = spread(over)
    row = {
        "model": name,
        "batch": args.batch,
        "length": args.length,
        "threads": threads,
        "clock": clock_name,
        "ours_over_gemm": spread(over),
        "transformers_over_gemm": spread(peers),
        "seconds": {key: spread(values) for key, values in took.items()},
        "raw_s": took,
    }
    report.results.append(row)
    print(
        f"{name:12} {threads} threads, {clock_name:4}: ours {row['ours_over_gemm']['median']:.2f},"
        f" transformers {row['transformers_over_gemm']['median']:.2f} times the products",
        flush=True,
    )


def peer(name: str) -> nn.Module:
    """Give transformers' mixer of the same sizes, random weights."""
    torch.manual_seed(0)
    if name == "mamba2-130m":
        config = Mamba2Config(
            hidden_size=768, num_heads=24, head_dim=64, state_size=128, n_groups=1
        )
        return Mamba2Mixer(config, layer_idx=0).eval()
    return MambaMixer(MambaConfig(hidden_size=768, state_size=16), layer_idx=0).eval()


if __name__ == "__main__":
    main()
