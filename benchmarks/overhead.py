"""What the driver costs: a run of cells that do nothing but sleep, against the ideal.

    python benchmarks/overhead.py [--cells 2000] [--seconds 0.05] [--slots 2] [--out FILE.json]

Each attempt sleeps and writes one suite and its outcome through the store, as a real one does,
in reused workers of a local Ray. The ideal is cells × seconds ÷ slots. The wall time is that of
the driver, from the first planned cell noted in the ledger to the compacted tables; Ray's own
start and end are told apart. With `--profile` the driver's functions are listed by time.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import platform
import pstats
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ssmbench.execute.driver import Driver
from ssmbench.execute.interrupts import Stop
from ssmbench.execute.outcomes import outcome_of
from ssmbench.execute.progress import PlainDisplay
from ssmbench.execute.task import Settings, tasks_of
from ssmbench.plan.cells import Cell, Entry, FineTune, Model, Resources, Step, Suite
from ssmbench.store import attempts
from ssmbench.store.compact import compact
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from ssmbench.execute.job import Job, Report

SUITE = Suite(name="perplexity", kind="quality", version=1, params={})
ROWS = {"metrics": [{"task": "t", "metric": "acc", "value": 0.5, "n": 4}]}


def attempt(job: Job, report: Report) -> dict[str, Any]:
    """Sleep, then write what an attempt writes."""
    started_s = time.time()
    folder = RunFolder(Path(job.folder))
    log = folder.path / job.log
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    report("sleep", 0, 0)
    time.sleep(float(os.environ["OVERHEAD_SECONDS"]))
    for suite in job.suites:
        attempts.write_suite(
            folder,
            cell_id=job.cell.id,
            attempt_id=job.attempt_id,
            suite=suite,
            result_rows=ROWS,
            facts={},
            seconds=time.time() - started_s,
        )
    outcome = outcome_of(job, done=[s.id for s in job.suites], failures=[], started_s=started_s)
    attempts.write_outcome(folder, outcome)
    return outcome


def entries(n: int) -> list[Entry]:
    """Make up n cells: random pruning of one model with another seed each."""
    model = Model("model", "hub:m", "revision", family="mamba2")
    steps = (Step("random", 1, 0.5, {"targets": ["in_proj"]}),)
    made = (Cell(model, steps, None, FineTune(), seed=i, dtype="float32") for i in range(n))
    return [Entry(cell, (SUITE,), Resources(), 3600.0, 4096) for cell in made]


class Watched:
    """Passes everything on to an executor and adds up how long attempts were at work."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self.at_work_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def poll(self, timeout_s: float) -> Any:
        ended = self._executor.poll(timeout_s)
        for found in ended:
            self.at_work_s += found.outcome["ended_s"] - found.outcome["started_s"]
        return ended


class Memory:
    """The largest resident memory of this process, looked at ten times a second."""

    def __init__(self) -> None:
        self.most = 0
        self._process = psutil.Process()
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.most = max(self.most, self._process.memory_info().rss)

    def close(self) -> int:
        self._done.set()
        return self.most


def measure(
    n_cells: int, seconds: float, slots: int, *, place: Path | None, profile: bool
) -> dict[str, Any]:
    """Run the cells and give what they cost."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "OVERHEAD_SECONDS": str(seconds)}
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    from ssmbench.execute.ray import RayExecutor

    memory, profiler = Memory(), cProfile.Profile()
    begun_s = time.perf_counter()
    executor = Watched(RayExecutor(local_cpus=slots, isolate=False, target="overhead:attempt"))
    ray_s = time.perf_counter() - begun_s
    planned = entries(n_cells)
    with tempfile.TemporaryDirectory(dir=place) as made:
        folder = RunFolder.create(Path(made) / "run", grid_text="", resolved={})
        with Ledger.open(folder) as ledger:
            if profile:
                profiler.enable()
            cpu_s, begun_s = time.process_time(), time.perf_counter()
            with ledger.batch():
                for entry in planned:
                    ledger.cell(entry.cell, entry.suites)
            noted_s = time.perf_counter() - begun_s
            driver = Driver(
                [t for e in planned for t in tasks_of(e, e.suites, seconds=1, attempts_before=0)],
                executor=executor,
                ledger=ledger,
                display=PlainDisplay(folder=str(folder.path)),
                settings=Settings(data=None, offline=True),
                stop=Stop(),
            )
            summary = driver.run()
            compact(folder)
            wall_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - cpu_s
            profiler.disable()
            assert len(ledger.history.committed) == n_cells, summary
    executor.close()
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(40)
    ideal_s = n_cells * seconds / slots
    return {
        "cells": n_cells,
        "seconds": seconds,
        "slots": slots,
        "ideal_s": ideal_s,
        "wall_s": round(wall_s, 2),
        "over_ideal": round(wall_s / ideal_s - 1, 4),
        "overhead_ms_per_cell": round((wall_s - ideal_s) * slots / n_cells * 1e3, 2),
        "attempt_ms": round(executor.at_work_s / n_cells * 1e3, 2),
        "noting_cells_s": round(noted_s, 2),
        "loop_s": round(summary.seconds, 2),
        "driver_cpu_s": round(cpu_s, 2),
        "driver_rss_mb": round(memory.close() / 1e6),
        "ray_start_s": round(ray_s, 1),
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "ray": metadata.version("ray"),
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Measure and print, and write the figures where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--place", type=Path, help="where the run folder goes; /tmp by default")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = measure(
        options.cells,
        options.seconds,
        options.slots,
        place=options.place,
        profile=options.profile,
    )
    text = json.dumps(figures, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
