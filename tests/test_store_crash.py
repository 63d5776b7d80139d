"""A process may die before any file operation: readers see all or nothing, and the next
start ends with every suite counted exactly once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import store_crash

from ssmbench.store import attempts, compact, contents, read
from ssmbench.store.artifacts import Artifacts
from ssmbench.store.folder import RunFolder

WANTED = {(c.id, s.id) for c in store_crash.CELLS for s in store_crash.SUITES}
LIKE = {"metrics": 1, "samples": 3, "latency": 3, "cells": 1}


def crashes(scenario: str, parent: Path) -> list[Path]:
    """Run the scenario once for each file operation; give the folders left behind."""
    script = str(Path(__file__).with_name("store_crash.py"))
    done = subprocess.run(
        [sys.executable, script, scenario, str(parent)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folders = sorted(parent.iterdir())
    assert len(folders) > 10
    return folders


def heights(folder: RunFolder) -> dict[str, int]:
    return {k: v.collect().height for k, v in read.tables(folder).items() if k in LIKE}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module", params=["worker", "driver"])
def left_behind(request, tmp_path_factory) -> list[Path]:
    return crashes(request.param, tmp_path_factory.mktemp(request.param))


def test_after_any_crash_readers_see_whole_suites_and_the_next_start_counts_each_once(left_behind):
    for path in left_behind:
        folder = store_crash.new_run(path)
        found = contents.read_contents(folder)
        seen = heights(folder)
        n_quality = sum(s == store_crash.SUITES[0].id for _, s in found.commits)
        assert seen["metrics"] == n_quality, path
        assert seen["samples"] == 3 * n_quality
        assert seen["latency"] == 3 * (len(found.commits) - n_quality)
        whole = {(m.cell_id, m.suite_id) for m in attempts.read_suite_marks(folder)}
        assert set(found.commits) <= whole

        store_crash.drive(folder, "b")

        history = contents.read_contents(folder).history
        assert set(history.committed) == WANTED
        assert heights(folder) == LIKE
        for key in whole:  # Finished work is adopted, never measured again.
            assert history.committed[key].startswith("a"), path
        assert read.tables(folder)["cells"].collect()["status"].to_list() == ["done"]


def test_after_any_crash_of_a_compaction_the_tables_are_the_same(tmp_path):
    for path in crashes("compact", tmp_path):
        folder = RunFolder.open(path)
        assert heights(folder) == LIKE
        compact.compact(folder)
        assert heights(folder) == LIKE


def test_after_any_crash_of_a_publication_the_artifact_is_whole_or_absent(tmp_path):
    states = set()
    for path in crashes("artifact", tmp_path):
        store = Artifacts(RunFolder.open(path))
        found = store.get({"k": 1})
        states.add(found is not None)
        place = store.publish({"k": 1}, store_crash.fill)
        assert (place / "sub" / "weights").read_bytes() == b"w" * 1000
        assert (place / "scores").read_bytes() == b"s" * 1000
    assert states == {True, False}
