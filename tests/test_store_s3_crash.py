"""A process may die between any two requests to an object store: readers see all or nothing,
and the next start ends with every suite counted exactly once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import store_crash

from ssmbench.store import attempts, compact, contents, read
from ssmbench.store.artifacts import Artifacts
from ssmbench.store.folder import RunFolder

pytestmark = pytest.mark.slow

WANTED = {(c.id, s.id) for c in store_crash.CELLS for s in store_crash.SUITES}
LIKE = {"metrics": 1, "samples": 3, "latency": 3, "cells": 1}


def crashes(scenario: str, s3, *, at_least: int) -> list[RunFolder]:
    """Run the scenario once for each change; give the folders left behind."""
    script = str(Path(__file__).with_name("store_crash_s3.py"))
    done = subprocess.run(
        [sys.executable, script, scenario, str(s3)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folders = [RunFolder(path) for path in sorted(s3.iterdir(), key=str)]
    assert len(folders) >= at_least
    return folders


def heights(folder: RunFolder) -> dict[str, int]:
    return {k: v.collect().height for k, v in read.tables(folder).items() if k in LIKE}


@pytest.mark.parametrize(("scenario", "at_least"), [("worker", 7), ("driver", 12)])
def test_after_any_crash_readers_see_whole_suites_and_the_next_start_counts_each_once(
    s3, scenario, at_least
):
    for left in crashes(scenario, s3, at_least=at_least):
        folder = store_crash.new_run(left.path)
        found = contents.read_contents(folder)
        seen = heights(folder)
        n_quality = sum(s == store_crash.SUITES[0].id for _, s in found.commits)
        assert seen["metrics"] == n_quality, folder.path
        assert seen["samples"] == 3 * n_quality
        assert seen["latency"] == 3 * (len(found.commits) - n_quality)
        whole = {(m.cell_id, m.suite_id) for m in attempts.read_suite_marks(folder)}
        assert set(found.commits) <= whole

        store_crash.drive(folder, "b")

        history = contents.read_contents(folder).history
        assert set(history.committed) == WANTED
        assert heights(folder) == LIKE
        for key in whole:  # Finished work is adopted, never measured again.
            assert history.committed[key].startswith("a"), folder.path
        assert read.tables(folder)["cells"].collect()["status"].to_list() == ["done"]


def test_after_any_crash_of_a_compaction_the_tables_are_the_same(s3):
    for folder in crashes("compact", s3, at_least=7):
        assert heights(folder) == LIKE
        compact.compact(folder)
        assert heights(folder) == LIKE


def test_after_any_crash_of_a_publication_the_artifact_is_whole_or_absent(s3):
    states = set()
    for folder in crashes("artifact", s3, at_least=4):
        store = Artifacts(folder)
        found = store.get({"k": 1})
        states.add(found is not None)
        place = store.publish({"k": 1}, store_crash.fill)
        assert (place / "sub" / "weights").read_bytes() == b"w" * 1000
        assert (place / "scores").read_bytes() == b"s" * 1000
    assert states == {True, False}
