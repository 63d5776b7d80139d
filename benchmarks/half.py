"""Half precision on a processor: our own models in float32 over the same in half, two ways.

    python benchmarks/half.py [--model mamba2-130m] [--turns 3] [--out FILE]

`stored` holds the weights in bfloat16 and computes in float32, as where the processor has no
bfloat16 units and as with float16 anywhere; `native` runs projections in bfloat16, on a processor
that has them. A model of the catalogue's sizes with random weights, one thread: reading a prompt of
2048 tokens, saying one token after it, what the weights take and what loading them took. Ratios
are of each turn: above 1, half is faster or smaller.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import targets
import torch
from measuring import Report, spread, take_turns

from ssmbench.grid.catalogue import find
from ssmbench.kernels.memory import keep_freed_memory
from ssmbench.models import checkpoint, precision
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest
from ssmbench.models.initialise import initialise
from ssmbench.suites._memory import needed, weights_bytes

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mamba2-130m")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a trial: two turns of short prompts")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.length, args.turns = 64, 2
    keep_freed_memory()  # as every attempt of a grid does
    torch.set_num_threads(1)
    report = Report("half")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        compare(report, args.model, loaded(args.model, Path(folder)), args)
    report.write(args.out)


def loaded(name: str, folder: Path) -> dict[str, Callable[[], Decoder]]:
    """Write a random model; give ways to load it."""
    description = find(name).describe()
    assert description is not None
    model = Decoder(description)
    initialise(model, seed=0)
    checkpoint.save(model, folder)

    def load(dtype: str, *, units: bool) -> Decoder:
        with mock.patch.object(precision, "cpu_has_bf16_units", return_value=units):
            return checkpoint.load(str(folder), dtype=dtype)

    ways = {
        "float32": lambda: load("float32", units=False),
        "stored": lambda: load("bfloat16", units=False),
    }
    if precision.cpu_has_bf16_units():
        ways["native"] = lambda: load("bfloat16", units=True)
    else:
        print("native: not run, since this processor has no bfloat16 units")
    return ways


def compare(
    report: Report, name: str, ways: dict[str, Callable[[], Decoder]], args: argparse.Namespace
) -> None:
    """Time all ways in turns, a prompt and then single tokens."""
    models: dict[str, Decoder] = {}
    row: dict[str, Any] = {"model": name, "length": args.length, "threads": 1, "bytes": {}}
    for way, load in ways.items():
        kept: list[Decoder] = []
        need = needed(lambda load=load, kept=kept: kept.append(load()), torch.device("cpu"))
        models[way] = kept[0]
        row["bytes"][way] = {"weights": weights_bytes(kept[0]), "loading": need.working_bytes}
    vocabulary = next(iter(models.values())).description.vocab_size
    ids = torch.randint(vocabulary, (1, args.length), generator=torch.Generator().manual_seed(0))
    states = {way: model.hidden(Forest.batch(ids))[1] for way, model in models.items()}

    def prefill(model: Decoder) -> torch.Tensor:
        hidden, _ = model.hidden(Forest.batch(ids))
        return model.logits(hidden[-1:])

    def decode(way: str) -> torch.Tensor:
        hidden, _ = models[way].hidden(Forest.batch(ids[:, -1:]), states[way])
        return models[way].logits(hidden)

    phases = {
        "prefill": {way: lambda model=model: prefill(model) for way, model in models.items()},
        "decode": {way: lambda way=way: [decode(way) for _ in range(8)] for way in models},
    }
    for phase, works in phases.items():
        took = take_turns(works, turns=args.turns * (1 if phase == "prefill" else 5))
        row[phase] = {"seconds": {k: spread(v) for k, v in took.items()}, "raw_s": took}
        for way in list(models)[1:]:
            over = [whole / half for whole, half in zip(took["float32"], took[way], strict=True)]
            report.targets[targets.half(name, way, phase, args.length)] = spread(over)
            print(f"{name:12} {phase:8} {way:7} {spread(over)['median']:.2f}", flush=True)
    for way in list(models)[1:]:
        kept_bytes = (row["bytes"][each]["weights"] for each in ("float32", way))
        smaller = next(kept_bytes) / next(kept_bytes)
        report.targets[targets.half(name, way, "weights", args.length)] = spread([smaller])
    report.results.append(row)


if __name__ == "__main__":
    main()
