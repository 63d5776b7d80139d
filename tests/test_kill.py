"""Every process dies at a bad moment; the same command ends with the same numbers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import polars as pl
import psutil
import pytest
from polars.testing import assert_frame_equal

import ssmbench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GRID = """
models: [zoo-mamba2]
methods:
  - {method: random, ratio: [0.3, 0.6]}
  - {method: magnitude, ratio: [0.3, 0.6]}
  - {method: wanda, ratio: 0.5}
suites:
  - {suite: tinyworld, n: 40}
  - {suite: perplexity, data: tinyworld, length: 256}
calibration: {samples: 4, length: 64}
isolate: false
"""
N_CELLS, N_SUITES = 6, 2
TIMEOUT_S = 180


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("grid") / "kill.yaml"
    path.write_text(GRID)
    return path


def command(grid: Path, folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "ssmbench", "run", str(grid), "--out", str(folder), *options]


@pytest.fixture(scope="module")
def undisturbed(grid, tmp_path_factory) -> pl.DataFrame:
    """The metrics of a run in one process, to which nothing happened."""
    folder = tmp_path_factory.mktemp("calm") / "run"
    subprocess.run(
        command(grid, folder, "--inline"), check=True, capture_output=True, timeout=TIMEOUT_S
    )
    return metrics(folder)


def metrics(folder: Path) -> pl.DataFrame:
    keys = ["cell_id", "suite_id", "task", "metric"]
    return ssmbench.results(folder)["metrics"].sort(keys)


def commits(folder: Path) -> list[tuple[str, str]]:
    """Read every commit from the ledger's own lines."""
    found = []
    for segment in sorted((folder / "ledger").glob("*.jsonl")):
        lines = segment.read_bytes().splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith(b"\n")]
        found += [(r["cell"], r["suite"]) for r in records if r["event"] == "commit"]
    return found


def start(grid: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(grid, folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, f"ended early:\n{process.communicate()[0]}"
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)


def has_begun(folder: Path) -> bool:
    """Whether some suites are committed and some are not."""
    return (folder / "ledger").is_dir() and 1 <= len(commits(folder)) < N_CELLS * N_SUITES - 2


def busy_workers(process: subprocess.Popen[str]) -> Iterator[psutil.Process]:
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            # Ray names a busy worker after its task, and the task is named after its cell.
            if re.match("ray::zoo-mamba2", " ".join(child.cmdline())):
                yield child
        except psutil.Error:
            continue


def kill_one_at_work(process: subprocess.Popen[str], folder: Path) -> None:
    """Kill a worker that still has something to lose.

    It is held still first: what lies on disk of its cell is then all that it has done, since what
    is whole there counts even if the worker dies before it can say so.
    """
    while True:
        wait_for(lambda: any(busy_workers(process)), process)
        for worker in busy_workers(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.suspend()
                label = " ".join(worker.cmdline()).removeprefix("ray::").strip()
                if written_of(folder, label) < N_SUITES:
                    worker.kill()
                    return
                worker.resume()


def written_of(folder: Path, label: str) -> int:
    """Count the suites of the cell with that label that are whole on disk."""
    cells = ssmbench.results(folder)["cells"]
    (cell_id,) = cells.filter(pl.col("label") == label)["cell_id"]
    # CELL.ATTEMPT.SUITE.json stands for a whole suite, CELL.ATTEMPT.json for an attempt's end.
    marks = folder.glob(f"attempts/*/{cell_id}.*.json")
    return len({path.name.split(".")[2] for path in marks if path.name.count(".") == 3})


def finish(grid: Path, folder: Path, undisturbed: pl.DataFrame) -> str:
    """Run the same command to its end and compare everything with the calm run."""
    again = subprocess.run(
        command(grid, folder), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert again.returncode == 0, again.stderr
    counted = commits(folder)
    assert len(counted) == len(set(counted)) == N_CELLS * N_SUITES
    assert_frame_equal(metrics(folder), undisturbed, check_exact=True)
    return again.stderr + again.stdout


def test_a_killed_driver(grid, tmp_path, undisturbed):
    folder = tmp_path / "run"
    process = start(grid, folder)
    wait_for(lambda: has_begun(folder), process)
    workers = list(busy_workers(process))
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    before = len(commits(folder))
    assert 1 <= before < N_CELLS * N_SUITES
    printed = finish(grid, folder, undisturbed)
    assert "done before" in printed
    _, left = psutil.wait_procs(workers, timeout=30)
    assert not left, f"workers of the dead run live on: {left}"


def test_a_killed_worker(grid, tmp_path, undisturbed):
    folder = tmp_path / "run"
    process = start(grid, folder)
    wait_for(lambda: has_begun(folder), process)
    kill_one_at_work(process, folder)
    printed = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 0, printed
    assert "the worker process died" in printed
    failed = [
        json.loads(line)
        for segment in (folder / "ledger").glob("*.jsonl")
        for line in segment.read_text().splitlines()
        if '"failed"' in line
    ]
    assert [f["error_class"] for f in failed] == ["crashed"]
    finish(grid, folder, undisturbed)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(grid, tmp_path, undisturbed, times):
    folder = tmp_path / "run"
    process = start(grid, folder)
    wait_for(lambda: has_begun(folder), process)
    for _ in range(times):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.5)
    printed = process.communicate(timeout=TIMEOUT_S)[0]
    assert process.returncode == 130, printed
    assert f"ssmbench run {grid}" in printed
    assert "Traceback" not in printed
    finish(grid, folder, undisturbed)
