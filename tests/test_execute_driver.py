"""The driver's loop, with a made-up executor and clock: order, retries, deadlines, stops."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from execute_helpers import (
    Clock,
    FakeExecutor,
    die,
    drive,
    fail,
    make_entry,
    succeed,
    write,
)
from store_helpers import make_cell, new_run

from ssmbench.errors import StoreError
from ssmbench.execute.driver import AHEAD
from ssmbench.execute.executor import Sign, Step
from ssmbench.execute.interrupts import Stop
from ssmbench.execute.policy import POLICY
from ssmbench.execute.task import tasks_of
from ssmbench.plan.cells import Resources
from ssmbench.store.ledger import Ledger, read_history

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger.open(new_run(tmp_path / "run")) as opened:
        yield opened


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor(Clock())


def cells(n: int) -> list:
    return [make_entry(make_cell(ratio=i / 100)) for i in range(n)]


LASTING = [kind for kind, rule in POLICY.items() if kind != "cancelled" and rule.retries < 99]


def committed(ledger: Ledger) -> int:
    return len(ledger.history.committed)


def test_every_suite_of_every_cell_is_committed_once(ledger, executor):
    summary, recorder = drive(ledger, cells(7), executor)
    assert committed(ledger) == summary.n_done == 7
    assert [kind for kind, _ in recorder.lines] == ["done"] * 7
    assert not summary.lost
    assert summary.n_left == 0


def test_only_few_attempts_wait_at_the_executor(ledger, executor):
    waiting = []
    executor.on_poll = lambda: waiting.append(len(executor.queued) + len(executor.running))
    drive(ledger, cells(12), executor)
    assert max(waiting) == executor.room + AHEAD


def test_timing_runs_after_all_quality(ledger, executor):
    entries = [make_entry(make_cell(ratio=r), "latency", "zero_shot") for r in (0.1, 0.2, 0.3)]
    drive(ledger, entries, executor)
    assert [j.kind for j in executor.jobs] == ["quality"] * 3 + ["timing"] * 3
    assert {"quality", "timing"} not in executor.together


def test_suites_of_one_kind_share_an_attempt(ledger, executor):
    drive(ledger, [make_entry(None, "zero_shot", "perplexity")], executor)
    assert [len(j.suites) for j in executor.jobs] == [2]
    assert committed(ledger) == 2


def test_a_crash_is_retried_after_a_growing_pause(ledger, executor):
    executor.script = [die(OSError("x")) for _ in range(0)] + [fail("crashed"), fail("crashed")]
    summary, recorder = drive(ledger, cells(1), executor)
    assert recorder.lines[:2] == [("retried", "crashed 1"), ("retried", "crashed 2")]
    assert summary.n_retried == 2
    assert committed(ledger) == 1
    assert [j.number for j in executor.jobs] == [1, 2, 3]
    assert len({j.attempt_id for j in executor.jobs}) == 3


@pytest.mark.parametrize("error_class", LASTING)
def test_a_lasting_error_is_tried_as_often_as_its_class_allows(ledger, executor, error_class):
    executor.script = [fail(error_class) for _ in range(10)]
    summary, _ = drive(ledger, cells(1), executor)
    assert len(executor.jobs) == 1 + POLICY[error_class].retries
    assert [lost.error_class for lost in summary.lost] == [error_class]
    assert committed(ledger) == 0
    assert [f.error_class for f in ledger.history.failed.values()] == [error_class]


def test_each_class_has_a_budget_of_its_own(ledger, executor):
    executor.script = [fail("crashed"), fail("hub"), fail("crashed"), fail("host_oom"), succeed]
    summary, _ = drive(ledger, cells(1), executor)
    assert summary.n_retried == 4
    assert committed(ledger) == 1


def test_an_attempt_is_told_whose_kernels_to_use(ledger, executor):
    entry = make_entry(backend="torch", resources=Resources(num_gpus=1))
    drive(ledger, [entry], executor)
    assert [(j.backend, j.device) for j in executor.jobs] == [("torch", "cuda")]


def test_full_gpu_memory_halves_the_batch(ledger, executor):
    executor.script = [fail("gpu_oom"), fail("gpu_oom")]
    drive(ledger, cells(1), executor)
    assert [j.batch_tokens for j in executor.jobs] == [1024, 512, 256]


def test_a_retry_does_only_what_the_failed_attempt_left(ledger, executor):
    executor.script = [fail("crashed", after=1)]
    entry = make_entry(None, "zero_shot", "perplexity", "lm_eval")
    drive(ledger, [entry], executor)
    assert [[s.name for s in j.suites] for j in executor.jobs] == [
        ["zero_shot", "perplexity", "lm_eval"],
        ["perplexity", "lm_eval"],
    ]
    assert committed(ledger) == 3


def test_what_a_dead_process_wrote_is_committed(ledger, executor):
    executor.script = [die(KeyError("gone"), after=1)]
    entry = make_entry(None, "zero_shot", "perplexity")
    summary, _ = drive(ledger, [entry], executor)
    names = {ledger.history.suites[suite]["name"] for _, suite in ledger.history.committed}
    assert names == {"zero_shot"}
    assert [s.name for s in summary.lost[0].suites] == ["perplexity"]


def test_a_dead_process_leaves_an_outcome(ledger, executor):
    executor.script = [die(KeyError("gone"))]
    drive(ledger, cells(1), executor)
    job = executor.jobs[0]
    outcome = json.loads(ledger.folder.outcome_file(job.cell.id, job.attempt_id).read_bytes())
    assert (outcome["status"], outcome["error_class"]) == ("failed", "bug")
    assert outcome["host"] == "host1"


def test_an_attempt_past_its_timeout_is_ended_and_not_retried(ledger, executor):
    executor.seconds = 1e9
    summary, _ = drive(ledger, [make_entry(timeout_s=90.0)], executor)
    assert [lost.error_class for lost in summary.lost] == ["timeout"]
    assert "1.5 min" in summary.lost[0].message
    assert 90 <= summary.seconds < 92


def test_waiting_in_the_queue_does_not_count_towards_the_timeout(ledger, executor):
    executor.room, executor.seconds = 1, 50.0
    summary, _ = drive(ledger, cells(3), executor)
    assert not summary.lost
    assert committed(ledger) == 3


def test_a_damaged_file_of_a_done_attempt_is_measured_again(ledger, executor):
    def damage(job):
        outcome = succeed(job)
        path = ledger.folder.table_file(job.cell.id, job.attempt_id, job.suites[0].id, "metrics")
        path.write_bytes(b"not parquet")
        return outcome

    executor.script = [damage]
    summary, _ = drive(ledger, cells(1), executor)
    assert summary.n_retried == 1
    assert committed(ledger) == 1


def test_the_first_stop_lets_running_attempts_finish(ledger, executor):
    stop = Stop()
    executor.on_poll = lambda: setattr(stop, "level", 1)
    summary, recorder = drive(ledger, cells(10), executor, stop=stop)
    assert committed(ledger) == executor.room
    assert summary.n_left == 8
    assert not summary.lost
    assert recorder.states[-1].stopping


def test_the_second_stop_ends_running_attempts(ledger, executor):
    stop = Stop()
    executor.seconds = 1e9
    executor.on_poll = lambda: setattr(stop, "level", stop.level + 1)
    summary, _ = drive(ledger, cells(3), executor, stop=stop)
    assert summary.n_left == 3
    assert len(executor.cancelled) >= executor.room
    assert committed(ledger) == 0
    assert not ledger.history.failed


def test_an_interrupt_inside_an_attempt_ends_the_run_without_a_failure(ledger, executor):
    def interrupt(timeout_s):
        raise KeyboardInterrupt

    executor.poll = interrupt
    summary, _ = drive(ledger, cells(2), executor)
    assert summary.n_left == 2
    assert not ledger.history.failed


def test_a_task_that_somebody_else_cancelled_counts_as_a_crash(ledger, executor):
    executor.script = [die(KeyboardInterrupt())]
    _, recorder = drive(ledger, cells(1), executor)
    assert recorder.lines[0] == ("retried", "crashed 1")
    assert committed(ledger) == 1


def test_the_driver_stops_when_another_takes_over(ledger, executor):
    executor.script = [lambda job: (Ledger.open(ledger.folder, steal=True), succeed(job))[1]]
    with pytest.raises(StoreError, match="taken over"):
        drive(ledger, cells(4), executor)
    assert not read_history(ledger.folder).committed


def test_a_late_attempt_counts_once(ledger, executor):
    entry = make_entry()
    drive(ledger, [entry], executor)
    first = executor.jobs[0]
    late = first.__class__(**{**vars(first), "attempt_id": "late"})
    write(late, *late.suites)
    assert ledger.adopt() == []
    assert ledger.history.committed == {(first.cell.id, first.suites[0].id): first.attempt_id}


def test_estimates_are_shared_between_the_kinds_of_a_cell():
    entry = make_entry(None, "zero_shot", "perplexity", "latency")
    tasks = tasks_of(entry, entry.suites, seconds=30.0, attempts_before=4)
    assert [(t.kind, t.seconds, t.number) for t in tasks] == [("quality", 20, 4), ("timing", 10, 4)]


def test_the_display_hears_of_everything(ledger, executor):
    executor.script = [succeed, fail("user"), fail("crashed")]
    _, recorder = drive(ledger, cells(4), executor)
    kinds = [kind for kind, _ in recorder.lines]
    assert sorted(kinds) == ["done", "done", "done", "failed", "retried"]
    last = recorder.states[-1]
    assert (last.n_failed, last.n_retried) == (1, 1)
    assert last.n_cells == 4
    assert last.n_cells_done == 2


@pytest.mark.parametrize("step", ["fine-tune", "work"])
def test_a_stop_at_once_waits_only_for_trainings_to_keep_their_place(
    ledger, executor, monkeypatch, step
):
    """On a Ray of its own the others are left to die with this process."""
    stop, cancelled = Stop(), []
    executor.seconds, executor.room, executor.dies_with_driver = 1e9, 1, True
    monkeypatch.setattr(
        executor, "signs", lambda: {k: Sign(Step(step, 1, 2)) for k in executor.running}
    )
    whole, polls = executor.cancel, []

    def cancel(attempt_id: str, *, force: bool) -> None:
        cancelled.append((attempt_id, force))
        whole(attempt_id, force=force)

    def press() -> None:
        polls.append(executor.clock.now)
        if len(polls) == 3:
            stop.level = 2

    monkeypatch.setattr(executor, "cancel", cancel)
    executor.on_poll = press
    summary, _ = drive(ledger, [make_entry()], executor, stop=stop)
    assert summary.n_left == 1
    running = [(executor.jobs[0].attempt_id, True)]
    assert cancelled == (running if step == "fine-tune" else [])
    # Another look at the executor, by which the cancelled attempt has ended.
    assert len(polls) == (4 if step == "fine-tune" else 3)
