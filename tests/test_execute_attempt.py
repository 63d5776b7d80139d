"""A real attempt, end to end: a tiny random model, compressed and measured."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path

import pytest
from store_helpers import new_run

from ssmbench.errors import DataError
from ssmbench.execute import attempt
from ssmbench.execute.job import Job
from ssmbench.execute.prepare import Request, prepare
from ssmbench.kernels import backends, naive
from ssmbench.models import precision
from ssmbench.store import attempts
from ssmbench.store.folder import RunFolder

GRID = """
models: [{{name: tiny, path: {model}}}]
methods: [{{method: wanda, ratio: 0.5}}]
suites:
  - {{suite: perplexity, data: tinyworld, length: 64}}
  - {{suite: tinyworld, n: 8}}
calibration: {{samples: 4, length: 32, data: tinyworld}}
"""


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    from execute_helpers import make_model

    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def job(tmp_path: Path, model_folder: Path) -> Job:
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.format(model=model_folder))
    entries = prepare(Request(grid=grid, limit=2)).entries
    entry = next(e for e in entries if e.cell.method == "wanda")
    folder = new_run(tmp_path / "run")
    return Job(
        folder=str(folder.path),
        cell=entry.cell,
        suites=entry.suites,
        attempt_id="first",
        number=1,
        log=f"logs/{entry.cell.id}/first.log",
        data=None,
        device="cpu",
        batch_tokens=512,
        num_cpus=1,
        offline=True,
        capture=True,
    )


def rows(job: Job, table: str) -> list:
    import polars as pl

    folder = RunFolder(Path(job.folder))
    paths = [folder.table_file(job.cell.id, job.attempt_id, s.id, table) for s in job.suites]
    return [pl.read_parquet(path) for path in paths if path.exists()]


def test_an_attempt_writes_whole_suites_facts_and_an_outcome(job):
    steps = []
    outcome = attempt.run_attempt(job, lambda *step: steps.append(step[0]))
    folder = RunFolder(Path(job.folder))
    assert outcome["status"] == "done", (folder.path / job.log).read_text()
    marks = attempts.read_suite_marks(folder)
    assert {m.suite_id for m in marks} == {s.id for s in job.suites} == set(outcome["done"])
    assert marks[0].facts["ratio_achieved"] == pytest.approx(0.5, abs=0.05)
    assert marks[0].facts["params_model"] > 0
    assert all(m.seconds > 0 for m in marks)
    path = folder.outcome_file(job.cell.id, job.attempt_id)
    assert attempts.read_outcomes([path])[0] == json.loads(json.dumps(outcome))
    assert steps[0] == "load"
    assert outcome["peak_memory_bytes"] > 0
    assert outcome["backend"] == "torch"
    assert {row for frame in rows(job, "metrics") for row in frame["backend"]} == {"torch"}
    assert outcome["compute_dtype"] == "float32"
    assert {row for frame in rows(job, "metrics") for row in frame["compute_dtype"]} == {"float32"}


@pytest.mark.parametrize(("units", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_rows_and_the_attempt_say_what_was_computed_in(job, monkeypatch, units, expected):
    monkeypatch.setattr(precision, "cpu_has_bf16_units", lambda: units)
    job = replace(job, cell=replace(job.cell, dtype="bfloat16"), suites=job.suites[:1])
    outcome = attempt.run_attempt(job, lambda *_: None)
    assert outcome["status"] == "done", outcome["message"]
    assert outcome["compute_dtype"] == expected
    (frame,) = rows(job, "metrics")
    assert set(frame["compute_dtype"]) == {expected}


def test_a_backend_that_cannot_compute_fails_the_attempt_as_the_users(job, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    outcome = attempt.run_attempt(replace(job, backend="triton"), lambda *_: None)
    assert [f["error_class"] for f in outcome["failures"]] == ["user"]
    assert outcome["message"] == (
        "backend 'triton' computes nothing on this machine: it needs a GPU. See docs/gpu.md, or"
        " choose backend: auto."
    )
    assert outcome["done"] == []
    assert outcome["backend"] is None
    assert backends.current().name != "triton"


def test_rows_and_the_attempt_say_whose_kernels_computed(job, monkeypatch):
    asked = []

    def some(choice, *where):
        asked.append((choice, *where))
        return backends.Choice(choice, "cpu", {"causal_conv": "triton"})

    monkeypatch.setattr(backends, "_chosen", some)
    monkeypatch.setattr(backends, "function", lambda *_: naive.causal_conv)
    outcome = attempt.run_attempt(replace(job, backend="triton"), lambda *_: None)
    assert outcome["status"] == "done", outcome["message"]
    assert asked == [("triton", "cpu", "float32")]
    assert "selective_scan: torch, causal_conv: triton" in outcome["backend"]
    assert {row for frame in rows(job, "metrics") for row in frame["backend"]} == {
        outcome["backend"]
    }


def test_a_suites_numbers_depend_neither_on_the_attempt_nor_on_its_neighbours(job):
    attempt.run_attempt(job, lambda *_: None)
    second = job.suites[1]
    alone = replace(job, attempt_id="second", suites=(second,), log="logs/x/second.log")
    attempt.run_attempt(alone, lambda *_: None)
    for table in ("metrics", "samples"):
        (again,) = rows(alone, table)
        assert any(again.equals(frame) for frame in rows(job, table))


def test_one_failing_suite_does_not_take_the_others_with_it(job, monkeypatch):
    from ssmbench.suites import perplexity

    def fail(context, params):
        raise DataError("no such text")

    monkeypatch.setattr(perplexity, "run", fail)
    outcome = attempt.run_attempt(job, lambda *_: None)
    first, second = (s.id for s in job.suites)
    assert outcome["done"] == [second]
    assert outcome["failures"] == [
        {"suites": (first,), "error_class": "user", "message": "no such text"}
    ]
    assert "Traceback" in (Path(job.folder) / job.log).read_text()


def test_full_memory_ends_the_attempt_at_once(job, monkeypatch):
    from ssmbench.suites import perplexity

    def fail(context, params):
        raise MemoryError

    monkeypatch.setattr(perplexity, "run", fail)
    outcome = attempt.run_attempt(job, lambda *_: None)
    assert outcome["done"] == []
    assert outcome["error_class"] == "host_oom"
    assert outcome["failures"][0]["suites"] == tuple(s.id for s in job.suites)


def test_a_model_that_vanished_fails_the_attempt_as_the_users(job):
    gone = replace(job.cell.model, source="folder:/nowhere/at/all")
    outcome = attempt.run_attempt(replace(job, cell=replace(job.cell, model=gone)), lambda *_: None)
    assert outcome["error_class"] == "user"
    assert "/nowhere/at/all" in outcome["message"]


def test_an_interrupt_passes_through(job, monkeypatch):
    from ssmbench.suites import perplexity

    def interrupt(context, params):
        raise KeyboardInterrupt

    monkeypatch.setattr(perplexity, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        attempt.run_attempt(job, lambda *_: None)


def test_an_attempt_without_a_log_still_ends_as_a_value(job):
    (Path(job.folder) / "logs").write_text("a file in the way")
    outcome = attempt.run_attempt(job, lambda *_: None)
    assert outcome["status"] == "failed"
    assert outcome["done"] == []


def test_what_was_there_before_is_no_garbage_of_the_attempts_and_is_searched_again_after(
    job, monkeypatch
):
    from ssmbench.suites import perplexity

    frozen = []
    whole = perplexity.run

    def count(context, params):
        frozen.append(gc.get_freeze_count())
        return whole(context, params)

    monkeypatch.setattr(perplexity, "run", count)
    attempt.run_attempt(job, lambda *_: None)
    assert frozen[0] > 10_000
    assert gc.get_freeze_count() == 0
