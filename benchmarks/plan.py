"""How long planning 10,000 cells takes: from the grid's text to the order in which to run them.

    python benchmarks/plan.py [--cells N]

Reads a grid of the catalogue's hub models (nothing is downloaded) three times over: into an
empty run folder, into one where half of the suites are done, and where all are.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

from ssmbench.grid.catalogue import catalogue
from ssmbench.grid.read import read_grid
from ssmbench.plan.decide import decide
from ssmbench.plan.expand import expand
from ssmbench.plan.history import History


def grid_text(n_cells: int) -> str:
    """Write a grid of about `n_cells` cells: models × (random, wanda) × ratios × 10 seeds."""
    models = [k.name for k in catalogue().values() if k.config is not None]
    n_ratios = math.ceil(n_cells / (len(models) * 20))
    ratios = [round((i + 1) / (n_ratios + 1), 4) for i in range(n_ratios)]
    return f"""
models: [{", ".join(models)}]
methods:
  - {{method: random, ratio: {ratios}}}
  - {{method: wanda, ratio: {ratios}}}
suites: [zero_shot, perplexity]
seeds: {list(range(10))}
"""


def history_of(decisions, *, share: float) -> History:
    """Give a history in which this share of the cells is done."""
    history = History()
    for decision in decisions[: round(len(decisions) * share)]:
        cell, suites = decision.entry.cell, decision.entry.suites
        history.cells[cell.id] = cell.to_json()
        history.wanted[cell.id] = tuple(s.id for s in suites)
        for suite in suites:
            history.suites[suite.id] = suite.to_json()
            history.committed[cell.id, suite.id] = "attempt"
            history.seconds[cell.id, suite.id] = decision.seconds or 1.0
    return history


def main() -> None:
    """Time reading and planning, thrice."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=10_000)
    cells = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.yaml"
        path.write_text(grid_text(cells))
        decisions = []
        for share in (0.0, 0.5, 1.0):
            history = history_of(decisions, share=share)
            start_s, cpu_s = time.perf_counter(), time.process_time()
            decisions = decide(expand(read_grid(path)), history)
            took_s, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_s
            left = sum(bool(d.suites_to_do) for d in decisions)
            print(f"{len(decisions)} cells, {left} to do: {took_s:.2f} s ({cpu_s:.2f} s of CPU)")


if __name__ == "__main__":
    main()
