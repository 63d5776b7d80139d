"""How long a report takes, and how much memory, against the number of result rows.

    python benchmarks/report.py [--rows 10000 100000 1000000] [--repeats 3] [--out report.json]

Makes up run folders of so many rows of the table `samples`: four models, each with its dense cell
and with cells of one seed and of three; six tasks and a text, a window or a document a row. For
each, a fresh process builds every table and figure of `ssmbench report` and writes the Markdown
page; figures are not drawn. Times are the median of the repeats: `total_s` without the start of
Python, `process_s` with it, `cpu_s` what all threads computed, which says more on a machine that
has other work (`load`). Memory is the process's peak, of which `imported_mb` was there before the
first read.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssmbench.plan.cells import Cell
    from ssmbench.store.folder import RunFolder

TASKS = ("far_word", "ending", "choice", "facts_easy", "facts_hard", "pronoun")
SHAPES = ((10_000, 36), (100_000, 120), (1_000_000, 400), (1_000_000, 2_000))  # Rows, cells.
TIMES = ("import_s", "open_s", "build_s", "markdown_s", "total_s", "cpu_s", "process_s")
_FORBIDDEN = ("torch", "ray", "matplotlib")


def main() -> None:
    """Make the folders, and time fresh processes on them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[rows for rows, _ in SHAPES])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--of", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.of is not None:
        print(json.dumps(measure(options.of)))
        return
    results = []
    with tempfile.TemporaryDirectory() as place:
        for n_rows, n_cells in (shape for shape in SHAPES if shape[0] in options.rows):
            folder = Path(place) / f"run-{n_rows}-{n_cells}"
            made = fill(folder, n_cells, round(n_rows / n_cells / 7))
            for state in ("attempts' files", "compacted"):
                results.append(made | {"state": state} | repeated(folder, options.repeats))
                print(results[-1], flush=True)
                compact_folder(folder)
    command = f"python benchmarks/report.py --repeats {options.repeats}"
    report = {"machine": machine(), "command": command, "results": results}
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def repeated(folder: Path, repeats: int) -> dict[str, Any]:
    """Measure in fresh processes, and give the medians."""
    found = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        child = [sys.executable, __file__, "--of", str(folder)]
        done = subprocess.run(child, stdout=subprocess.PIPE, check=True, text=True)
        found.append(json.loads(done.stdout) | {"process_s": time.perf_counter() - start_s})
    load = {"load": round(os.getloadavg()[0], 1)}
    medians = {name: round(statistics.median(f[name] for f in found), 3) for name in TIMES}
    return found[-1] | medians | load


def measure(place: Path) -> dict[str, Any]:
    """Build a report in this process, and say how long it took."""
    marks = [time.perf_counter()]
    from ssmbench.report import _build, _markdown, _source

    marks.append(time.perf_counter())
    imported = peak_mb()
    results = _source.open_results([str(place)])
    marks.append(time.perf_counter())
    report = _build.build_report(results)
    marks.append(time.perf_counter())
    text = _markdown.page(report)
    marks.append(time.perf_counter())
    loaded = [name for name in _FORBIDDEN if name in sys.modules]
    if loaded:
        sys.exit(f"{', '.join(loaded)} was imported")
    spans = [b - a for a, b in itertools.pairwise(marks)]
    times = [*spans, marks[-1] - marks[0], time.process_time()]
    return dict(zip(TIMES, times, strict=False)) | {
        "imported_mb": imported,
        "peak_mb": peak_mb(),
        "n_tables": len(report.tables),
        "page_kb": len(text.encode()) // 1000,
    }


def peak_mb() -> int:
    """Give the process's peak memory so far, in MB."""
    # Not ru_maxrss: a child starts with its parent's.
    found = Path("/proc/self/status").read_text()
    line = next(line for line in found.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1000


def cells(n: int) -> Iterator[Cell]:
    """Make up n cells of four models: dense, random pruning of three seeds each, magnitude."""
    from ssmbench.plan.cells import Cell, FineTune, Model, Step

    for i in range(n):
        model = f"model-{i % 4}"
        place, seed = divmod(i // 4 - 1, 4)
        method = "dense" if place < 0 else "random" if seed < 3 else "magnitude"
        yield Cell(
            model=Model(model, f"hub:{model}", f"revision-of-{model}", family="mamba2"),
            steps=(Step(method, 1, 0.0 if place < 0 else (place + 1) / 1000, {}),),
            calibration=None,
            fine_tune=FineTune(),
            seed=seed if method == "random" else 0,
            dtype="float32",
        )


def fill(path: Path, n_cells: int, n_documents: int) -> dict[str, int]:
    """Write a finished run, without waiting for the disk: that is not what is measured."""
    from ssmbench.plan.cells import Suite
    from ssmbench.store.folder import RunFolder
    from ssmbench.store.ledger import Ledger

    wait, os.fsync = os.fsync, lambda _: None
    suites = [
        Suite(name="zero_shot", kind="quality", version=1, params={"tasks": list(TASKS)}),
        Suite(name="perplexity", kind="quality", version=1, params={}),
        Suite(name="latency", kind="timing", version=1, params={}, device="cpu"),
    ]
    folder = RunFolder.create(path, grid_text="", resolved={})
    with Ledger.open(folder) as ledger:
        for i, cell in enumerate(cells(n_cells)):
            ledger.cell(cell, suites)
            for suite, rows in zip(suites, made_up(cell, n_documents), strict=True):
                write(folder, ledger, cell, suite, rows, f"{i:08d}{suite.name}")
    os.fsync = wait
    return {"n_rows": n_cells * n_documents * 7, "n_cells": n_cells}


def write(
    folder: RunFolder, ledger: Any, cell: Cell, suite: Any, rows: dict[str, Any], attempt_id: str
) -> None:
    """Do what a worker and the driver do for one suite."""
    from ssmbench.store import attempts

    facts = dict.fromkeys(("params_model", "params_mixer", "state_bytes", "nonzero_mixer"), 10**8)
    made = attempts.write_suite(
        folder,
        cell_id=cell.id,
        attempt_id=attempt_id,
        suite=suite,
        result_rows=rows,
        facts=facts,
        seconds=10.0,
    )
    ledger.commit(made)
    outcome = {"cell_id": cell.id, "attempt_id": attempt_id, "status": "done"}
    attempts.write_outcome(folder, {**outcome, "number": 1, "started_s": 1.0})


def made_up(cell: Cell, n: int) -> list[dict[str, list[dict[str, Any]]]]:
    """Make up what three suites measure of a cell."""
    luck = np.random.default_rng(random.Random(f"{cell.ratio}{cell.seed}").randrange(2**32))
    same = np.random.default_rng(1)
    tokens = same.lognormal(5, 0.8, n).round() + 1
    nats = (same.normal(3, 0.7, n) + luck.lognormal(-3, 1, n) * (cell.ratio > 0)) * tokens
    told = {"n": n, "higher_is_better": True}
    zero: dict[str, list[dict[str, Any]]] = {"metrics": [], "samples": []}
    for task in TASKS:
        right = same.random(n) < 0.6
        right ^= (luck.random(n) < 0.1) & (cell.ratio > 0)
        score = {"value": float(right.mean()), "stderr": float(right.std() / np.sqrt(n - 1))}
        zero["metrics"].append({"task": task, "metric": "acc", **score, **told})
        zero["samples"] += [
            {"task": task, "doc_id": str(i), "metric": "acc", "value": v, "weight": 1.0}
            for i, v in enumerate(right.astype(float).tolist())
        ]
    perplexity = {"value": float(np.exp(nats.sum() / tokens.sum())), "n": n}
    told = {"task": "wikitext", "metric": "perplexity", "higher_is_better": False}
    text = {
        "metrics": [told | perplexity],
        "samples": [
            {"task": "wikitext", "doc_id": str(i), "metric": "nll", "value": v, "weight": w}
            for i, (v, w) in enumerate(zip(nats.tolist(), tokens.tolist(), strict=True))
        ],
    }
    point = {"device": "cpu", "batch": 1, "length": 512, "raw_s": [0.01] * 20}
    point |= {"median_s": 0.01, "dense_median_s": 0.02, "speedup": 2.0, "n": 20}
    point |= {"dense_raw_s": [0.02] * 20, "tokens_per_s": 100.0, "p10_s": 0.01, "p90_s": 0.01}
    return [zero, text, {"latency": [{"phase": phase, **point} for phase in ("prefill", "decode")]}]


def compact_folder(path: Path) -> None:
    """Compact a run."""
    from ssmbench.store.compact import compact
    from ssmbench.store.folder import RunFolder

    compact(RunFolder.open(path))


def machine() -> dict[str, Any]:
    """Say what this was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    versions = {name: importlib.metadata.version(name) for name in ("polars", "numpy", "ssmbench")}
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **versions,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
