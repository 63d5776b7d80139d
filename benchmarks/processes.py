"""Two processes of one thread, or one of two: which gets more of a grid done on two processors?

    python benchmarks/processes.py [--turns 3] [--out FILE]

A toy grid (tiny trained models, six tasks) is run by `ssmbench run` with `num_cpus: 1`, so that two
attempts share the machine, and with `num_cpus: 2`, so that each has it to itself. Whole runs by the
clock, taking turns; the scores must be the same but for a document's rounding, else there is no
result.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import targets
from measuring import Report, spread
from polars.testing import assert_frame_equal

import ssmbench

GRID = """
models: [zoo-mamba-l, zoo-mamba2, zoo-smol-mamba]
methods:
  - {{method: wanda, ratio: [0.25, 0.5]}}
  - {{method: magnitude, ratio: [0.25, 0.5]}}
suites:
  - {{suite: tinyworld, n: {n}}}
calibration: {{samples: 16, length: 128}}
batch_tokens: 2048
isolate: false
resources: {{num_cpus: {num_cpus}}}
"""
KEYS = ["cell_id", "suite_id", "task", "metric"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--documents", type=int, default=200, help="of each task")
    parser.add_argument("--quick", action="store_true", help="a trial: one turn, few documents")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.turns, args.documents = 1, 5
    report = Report("processes", watched=False)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(args.turns):
            for num_cpus in (1, 2) if turn % 2 else (2, 1):
                folder = Path(place) / f"run-{turn}-{num_cpus}"
                seconds[num_cpus].append(run(folder, num_cpus, args.documents))
        scores = [
            ssmbench.results(Path(place) / f"run-0-{n}" / "run")["metrics"].sort(KEYS)
            for n in (1, 2)
        ]
        assert_frame_equal(*(s.select(*KEYS, "value") for s in scores), rel_tol=0, abs_tol=0.02)
    ratios = [two / one for one, two in zip(seconds[1], seconds[2], strict=True)]
    report.targets[targets.processes(args.documents)] = spread(ratios)
    report.results.append(
        {"documents": args.documents, "two_processes_s": seconds[1], "one_process_s": seconds[2]}
    )
    print(f"one process of two threads ÷ two processes of one: {spread(ratios)['median']:.2f}")
    report.write(args.out)


def run(folder: Path, num_cpus: int, n: int) -> float:
    """Run the grid into a new folder; gives the seconds of the whole command."""
    folder.mkdir()
    grid = folder / "grid.yaml"
    grid.write_text(GRID.format(n=n, num_cpus=num_cpus))
    command = [sys.executable, "-m", "ssmbench", "run", str(grid), "--out", str(folder / "run")]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
