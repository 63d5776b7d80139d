"""Short continuations of states that are there: transformers' Mamba-2 against ours.

    python benchmarks/continuation.py [--turns 15] [--out FILE]

A model of mamba2-130m's sizes with a few layers, random weights, the same in both. A prompt is
read once; then B rows of L tokens go on from its state, as answers of a multiple-choice question
do. transformers' cache is changed by each call, so each gets a copy, which is not timed. No head:
its cost is the same in both.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path
from typing import Any

import targets
import torch
import transformers
from measuring import Report, spread, take_turns

from ssmbench.kernels.memory import keep_freed_memory
from ssmbench.models import checkpoint
from ssmbench.models.forest import Forest

TOLERANCE = 1e-3  # of hidden vectors whose deviation is about 1; both are float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=6)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="a trial: two turns, few rows")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.batch, args.layers, args.turns = 4, 1, 2
    keep_freed_memory()  # as every attempt of a grid does
    report = Report("continuation")
    theirs, ours = both_models(args.layers)
    draw = torch.Generator().manual_seed(0)
    prompt, ids = (torch.randint(50288, (args.batch, n), generator=draw) for n in (32, args.length))
    with torch.inference_mode():
        _, state = ours.hidden(Forest.batch(prompt))
        cache = theirs(prompt, use_cache=True).cache_params
        fresh: dict[str, Any] = {}
        found: dict[str, torch.Tensor] = {}

        def mine() -> None:
            found["ours"] = ours.hidden(Forest.batch(ids), state)[0].view(*ids.shape, -1)

        def other() -> None:
            found["transformers"] = theirs(ids, cache_params=fresh["cache"]).last_hidden_state

        works = {"transformers": other, "ours": mine}
        took = take_turns(
            works, turns=args.turns, before=lambda _: fresh.update(cache=copy.deepcopy(cache))
        )
    difference = float((found["ours"] - found["transformers"]).abs().max())
    if difference > TOLERANCE:
        raise SystemExit(f"the two do not compute the same: they differ by {difference:.1e}")
    ratios = [a / b for a, b in zip(took["transformers"], took["ours"], strict=True)]
    target = targets.continuation(batch=args.batch, length=args.length)
    report.targets[target] = spread(ratios)
    report.results.append(
        {
            "batch": args.batch,
            "length": args.length,
            "layers": args.layers,
            "max_difference": difference,
            "ratio": spread(ratios),
            "seconds": {key: spread(values) for key, values in took.items()},
            "raw_s": took,
        }
    )
    print(f"transformers ÷ ours: {spread(ratios)['median']:.1f}, difference {difference:.1e}")
    report.write(args.out)


def both_models(layers: int) -> tuple[Any, Any]:
    """Make random weights and load them as transformers' model without its head, and as ours."""
    torch.manual_seed(0)
    config = transformers.Mamba2Config(
        vocab_size=50288, hidden_size=768, num_hidden_layers=layers, num_heads=24, head_dim=64,
        state_size=128, n_groups=1, tie_word_embeddings=True,
    )  # fmt: skip
    theirs = transformers.Mamba2ForCausalLM(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = checkpoint.load(folder)
    return theirs.backbone, ours


if __name__ == "__main__":
    main()
