"""The chaos suite in small: one run of every kind of process dying, and the numbers it ends with.

`make chaos MINUTES=30` is the whole of it.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.watch import Watcher, commits, numbers
from store_helpers import acc_rows, finish, make_cell, make_suite, new_run

from ssmbench.store.contents import segments
from ssmbench.store.ledger import Ledger
from ssmbench.store.read import tables

# Loaded machines take ten times as long; on an idle one it is less than a minute.
TIMEOUT_S = 900


@pytest.mark.ray
@pytest.mark.slow
def test_a_disturbed_run_ends_as_an_undisturbed_one():
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "--short", "--seed", "0"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"faults 5, cells (\d+), lost 0, duplicated 0, differing 0", last)
    assert found, done.stdout + done.stderr
    assert int(found[1]) >= 11
    assert done.returncode == 0, done.stdout + done.stderr


# --- the watcher is awake -------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A run folder with two committed suites."""
    folder = new_run(tmp_path / "run")
    with Ledger.open(folder) as ledger:
        for attempt, ratio in (("a1", 0.3), ("a2", 0.6)):
            rows = acc_rows({"t": [1, 0, 1]})
            finish(folder, ledger, make_cell(ratio=ratio), make_suite(), rows, attempt=attempt)
    return folder


def look(watcher: Watcher) -> str:
    """Let the watcher look once; give what it noted."""
    with contextlib.ExitStack() as stack:
        stack.callback(watcher.stop)
        n = watcher.n_reads
        watcher.start()
        while watcher.n_reads == n:
            pass
    return "\n".join(watcher.seen)


def test_a_run_as_it_should_be_is_not_complained_about(run):
    assert look(Watcher(run.path, numbers(tables(run)), set())) == ""


def test_a_changed_number_is_seen(run):
    expected = {key: rows[:-1] for key, rows in numbers(tables(run)).items()}
    assert "rows that are not the right ones" in look(Watcher(run.path, expected, set()))


def test_a_damaged_file_is_seen(run):
    expected = numbers(tables(run))
    path = next(run.attempts_dir.rglob("*.samples.parquet"))
    path.write_bytes(path.read_bytes()[:-10])
    noted = look(Watcher(run.path, expected, set()))
    assert "a reader was refused" in noted


def test_half_a_file_under_its_name_is_seen(run):
    expected = numbers(tables(run))
    mark = next(run.attempts_dir.rglob("*.json"))
    half = mark.with_name(mark.name.replace(".a", ".b"))
    half.write_bytes(mark.read_bytes()[:50])
    assert "partial" in look(Watcher(run.path, expected, set()))
    assert look(Watcher(run.path, expected, {half.stem})) == ""


def test_a_commit_that_goes_away_is_seen(run):
    watcher = Watcher(run.path, numbers(tables(run)), set())
    watcher._look()
    path = segments(run)[0]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert "then as None" in look(watcher)


def test_a_second_commit_is_counted(run):
    assert len(commits(run.path)) == 2
    path = segments(run)[0]
    last = path.read_bytes().splitlines(keepends=True)[-1]
    assert json.loads(last)["event"] == "commit"
    path.write_bytes(path.read_bytes() + last)
    assert len(commits(run.path)) == 3
