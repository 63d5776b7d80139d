"""Time prefill dense and with Simba, taking turns in one process, against the FLOPs of each.

    python benchmarks/simba_time.py [--models mamba-130m mamba2-130m] [--lengths 512 1024 2048]
        [--ratio 0.9] [--bias input] [--turns 7] [--out FILE]

The models have their published sizes and random weights. One prompt runs through all layers; as a
server does, the head is applied to its last position alone. `saved` is the time saved as a share
of the FLOPs saved, (1 − t_simba / t_dense) / (1 − F_simba / F_dense), for each turn, so that what
else the machine does meanwhile hits both alike. Where it does much, `cpu`, the same of the
process's own processor time, is the steadier figure (with one thread).

With random weights and the default reading of the bias, Mamba-1's tokens score so unlike that
bounds rank most of them. `--bias both` is the worst case: nearly all need the exact score.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import targets
import torch
from measuring import Report, spread

from ssmbench.grid.catalogue import find
from ssmbench.kernels.memory import keep_freed_memory
from ssmbench.methods import simba
from ssmbench.models.decoder import Decoder
from ssmbench.models.flops import head_flops
from ssmbench.models.forest import Forest
from ssmbench.models.initialise import initialise
from ssmbench.models.token_flops import count
from ssmbench.surgery.context import MethodContext


class Took(NamedTuple):
    """Seconds: by the clock, and of the processor."""

    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mamba-130m", "mamba2-130m"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024, 2048])
    parser.add_argument("--ratio", type=float, default=0.9)
    parser.add_argument("--bias", choices=["input", "none", "both"], default="input")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--quick", action="store_true", help="a trial: two turns of 256 tokens")
    args = parser.parse_args()
    keep_freed_memory()  # as every attempt of a grid does
    if args.quick:
        args.lengths, args.turns = [256], 2
    if args.threads:
        torch.set_num_threads(args.threads)
    report = Report("simba_time")
    for name in args.models:
        description = find(name).describe()
        if description is None:
            parser.error(f"{name}: the catalogue does not hold its sizes")
        model = Decoder(description).eval().requires_grad_(requires_grad=False)
        initialise(model, seed=0)
        for length in args.lengths:
            params = simba.Params(bias=args.bias)
            row = compare(model, length, ratio=args.ratio, params=params, turns=args.turns)
            report.results.append({"model": name, **row})
            print(json.dumps(report.results[-1]), flush=True)
            target = targets.simba(name, length, args.ratio, args.bias)
            report.targets[target] = row["saved"] | {"n": args.turns}
    report.write(args.out)


def compare(
    model: Decoder, length: int, *, ratio: float, params: simba.Params, turns: int
) -> dict[str, Any]:
    """Time both on one random prompt; the first turn warms up."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(0, model.description.vocab_size, (1, length), generator=generator)
    model.reducer = None
    context = MethodContext(seed=0, calibration=None)
    simba.compress(model, ratio=ratio, params=params, context=context)
    reducer = model.reducer
    assert reducer is not None
    load = os.getloadavg()[0]
    pairs: list[tuple[Took, Took]] = []
    for turn in range(turns + 1):
        order = [None, reducer] if turn % 2 else [reducer, None]
        took = {}
        for reducer_now in order:
            model.reducer = reducer_now
            took[reducer_now is None] = prefill(model, ids)
        pairs.append((took[True], took[False]))
    dense_flops, simba_flops = (
        count(model.description, prompt=length, drop=drop).total("scored")
        + head_flops(model.description)
        for drop in (None, reducer.drop)
    )
    flops_saved = 1 - simba_flops / dense_flops
    wall, cpu = ([(d[i], s[i]) for d, s in pairs[1:]] for i in range(2))
    return {
        "length": length,
        "dense_ms": spread([1e3 * d for d, _ in wall]),
        "simba_ms": spread([1e3 * s for _, s in wall]),
        "time_ratio": spread([s / d for d, s in wall]),
        "flops_ratio": round(simba_flops / dense_flops, 4),
        "saved": spread([(1 - s / d) / flops_saved for d, s in wall]),
        "cpu": {
            "dense_ms": spread([1e3 * d for d, _ in cpu]),
            "simba_ms": spread([1e3 * s for _, s in cpu]),
            "time_ratio": spread([s / d for d, s in cpu]),
            "saved": spread([(1 - s / d) / flops_saved for d, s in cpu]),
        },
        "load_average": [round(load, 2), round(os.getloadavg()[0], 2)],
    }


def prefill(model: Decoder, ids: torch.Tensor) -> Took:
    """Time a prompt, with the states that generation would go on from."""
    forest = Forest.batch(ids)
    forest = Forest(forest.tokens, forest.stages, prompted=True)
    with torch.inference_mode():
        start = time.perf_counter(), time.process_time()
        hidden, _ = model.hidden(forest)
        model.logits(hidden[-1:])
        return Took(time.perf_counter() - start[0], time.process_time() - start[1])


if __name__ == "__main__":
    main()
