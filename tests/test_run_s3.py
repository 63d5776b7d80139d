"""Whole runs into an object store: run, resume, ask and report as with a folder on a disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from polars.testing import assert_frame_equal

import ssmbench as package
from ssmbench.cli import main
from ssmbench.store import contents
from ssmbench.store.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow

GRID = """
models: [zoo-mamba-s]
methods:
  - {method: wanda, ratio: 0.5}
  - {method: random, ratio: 0.5}
suites: [{suite: tinyworld, n: 20}, {suite: perplexity, data: tinyworld, length: 64}]
calibration: {samples: 4, length: 64}
"""
N_CELLS, N_SUITES = 3, 2
TIMEOUT_S = 300


@pytest.fixture
def grid(tmp_path: Path) -> str:
    path = tmp_path / "g.yaml"
    path.write_text(GRID)
    return str(path)


@pytest.fixture
def ssmbench(capsys):
    """Run a command line; give its exit code, stdout and stderr."""

    def run(*arguments: str):
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def start(grid: str, out: str, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "ssmbench", "run", grid, "--inline", "--plain", "--out", out]
    return subprocess.Popen([*words, *options], stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    err = process.communicate(timeout=TIMEOUT_S)[1]
    return process.returncode, err


def test_a_run_in_an_object_store_is_a_run(s3, grid, ssmbench, tmp_path):
    out, here = str(s3), str(tmp_path / "here")
    code, _, err = ssmbench("run", grid, "--inline", "--plain", "--out", out)
    assert code == 0, err
    assert f"3 cells · 0 done before · 3 to run    {out}" in err
    assert f"ssmbench report {out}" in err
    assert ssmbench("run", grid, "--inline", "--plain", "--out", here)[0] == 0

    code, _, err = ssmbench("run", grid, "--inline", "--plain", "--out", out)
    assert (code, "3 cells · 3 done before · 0 to run" in err) == (0, True)
    _, shown, _ = ssmbench("plan", grid, "--out", out)
    assert "3 cells · 3 done · 0 to do" in shown
    _, shown, _ = ssmbench("status", out)
    assert shown.startswith("3 cells · 3 done · 0 failed · 0 to do · 6 suites measured")

    query = "select task, metric, value, n from metrics order by cell_id, suite, task, metric"
    ask = ("sql", "--format", "csv")
    assert ssmbench(*ask, out, query) == ssmbench(*ask, here, query)
    csv = ("--format", "csv", "--out", "-")
    reports = [ssmbench("report", place, *csv)[1].split("# provenance") for place in (out, here)]
    assert [text.count("# ") > 1 for text, _ in reports] == [True, True]
    assert "Quality" in ssmbench("report", out)[1]
    assert reports[0][0] == reports[1][0]
    for name in ("metrics", "samples", "layers"):
        by = package.results(here)[name].columns
        theirs, ours = (package.results(place)[name].sort(by) for place in (out, here))
        assert_frame_equal(theirs, ours)

    attempt = package.results(out)["attempts"].row(0, named=True)
    log = (s3 / attempt["log"]).read_bytes().decode()
    assert "attempt 1" in log
    code, shown, _ = ssmbench("logs", out, attempt["cell_id"])
    assert (code, "attempt 1" in shown) == (0, True)


def test_a_killed_driver_loses_nothing_that_was_finished(s3, grid, ssmbench):
    out = str(s3)
    folder = RunFolder(s3)
    process = start(grid, out)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if len(contents.read_contents(folder).commits) >= N_SUITES:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    ended(process)
    done = dict(contents.read_contents(folder).history.committed)
    assert N_SUITES <= len(done) < N_CELLS * N_SUITES
    code, _, err = ssmbench("run", grid, "--inline", "--plain", "--out", out)
    assert code == 0, err
    history = contents.read_contents(folder).history
    assert len(history.committed) == N_CELLS * N_SUITES
    assert done.items() <= history.committed.items()
    metrics = package.results(out)["metrics"]
    assert not metrics.select("cell_id", "suite_id", "task", "metric").is_duplicated().any()


def test_of_two_drivers_one_is_told_that_the_other_is_at_work(s3, grid):
    both: Sequence[subprocess.Popen[str]] = [start(grid, str(s3)) for _ in range(2)]
    codes, errors = zip(*(ended(process) for process in both), strict=True)
    assert sorted(codes) == [0, 2], errors
    refused = errors[codes.index(2)]
    assert "is driven by process" in refused
    assert "Traceback" not in refused
    found = contents.read_contents(RunFolder(s3))
    assert len(found.commits) == N_CELLS * N_SUITES
    assert sum(found.history.attempts.values()) == N_CELLS


@pytest.mark.parametrize("command", [("status",), ("report",), ("sql",), ("run",)])
def test_a_bucket_that_is_not_there_is_one_sentence(s3, grid, ssmbench, command):
    nowhere = "s3://bucket-of-nobody/run"
    words = {
        "status": ("status", nowhere),
        "report": ("report", nowhere),
        "sql": ("sql", nowhere, "select 1"),
        "run": ("run", grid, "--inline", "--out", nowhere),
    }
    code, out, err = ssmbench(*words[command[0]])
    assert (code, out) == (2, "")
    assert err.startswith("s3://bucket-of-nobody")
    assert err.count("\n") == 1
    assert "AWS_ENDPOINT_URL" in err
