"""What failures add up to: machines in quarantine, methods that stop, and where retries go."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from execute_helpers import (
    Clock,
    FakeExecutor,
    WorkerCrashedError,
    die,
    drive,
    fail,
    make_entry,
    succeed,
    write,
)
from store_helpers import make_cell, new_run

from ssmbench.execute import policy
from ssmbench.execute.executor import Ended, Node
from ssmbench.execute.health import Health
from ssmbench.execute.interrupts import Stop
from ssmbench.execute.task import tasks_of
from ssmbench.plan.cells import Resources, Step
from ssmbench.store.contents import read_contents
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

SMALL, BIG = Node("n1", "host1", 8e9), Node("n2", "host2", 16e9)
TWIN = Node("n2", "host2", 8e9)


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger.open(new_run(tmp_path / "run")) as opened:
        yield opened


@pytest.fixture
def executor() -> FakeExecutor:
    """Two machines with one slot each; the first is preferred."""
    return FakeExecutor(Clock(), names=[SMALL, TWIN])


def entries(n: int, method: str = "random", **options) -> list:
    return [
        make_entry(replace(make_cell(seed=i), steps=(Step(method, 1, 0.5, {}),)), **options)
        for i in range(n)
    ]


def events(ledger: Ledger, name: str) -> list[dict]:
    import json

    found = []
    for segment in sorted(ledger.folder.ledger_dir.iterdir()):
        found += [json.loads(line) for line in segment.read_text().splitlines()]
    return [record for record in found if record["event"] == name]


def notes(recorder) -> str:
    return "\n".join(text for kind, text in recorder.lines if kind == "note")


def nodes_of(executor: FakeExecutor, entry) -> list[str]:
    return [node for cell, node in executor.ran if cell == entry.cell.id]


# Quarantine.


def test_a_machine_where_three_cells_crash_in_a_row_gets_nothing_more(ledger, executor):
    executor.on_node["n1"] = fail("crashed")
    summary, recorder = drive(ledger, entries(9), executor)
    assert len(ledger.history.committed) == 9
    assert not summary.lost
    (event,) = events(ledger, "quarantined")
    assert (event["node"], event["host"], len(set(event["cells"]))) == ("n1", "host1", 3)
    assert "host1" in notes(recorder)
    # One more may have begun before the third crash was judged.
    assert [node for _, node in executor.ran].count("n1") <= 4


def test_what_waits_for_a_machine_in_quarantine_is_taken_back(ledger, executor):
    executor.on_node["n1"] = fail("crashed")
    drive(ledger, entries(9), executor)
    by_demand = {j.attempt_id: d for j, d in zip(executor.jobs, executor.demands, strict=True)}
    withdrawn = [name for name, force in executor.cancels if not force]
    assert withdrawn
    assert all("n1" not in by_demand[name].avoid for name in withdrawn)


def test_a_success_in_between_clears_a_machine(ledger, executor):
    executor.names = [SMALL]
    executor.room = 1
    executor.on_node["n1"] = lambda job: (
        fail("crashed") if job.number == 1 and job.cell.seed % 2 else succeed
    )(job)
    executor.names = [SMALL, TWIN]
    executor.unreachable.add("n2")
    executor.choose = lambda job, free: SMALL
    summary, _ = drive(ledger, entries(12), executor)
    assert len(ledger.history.committed) == 12
    assert not events(ledger, "quarantined")
    assert summary.stopped is None


def test_cells_that_crash_everywhere_speak_against_no_machine(ledger, executor):
    killers, others = entries(4, "magnitude"), entries(6, "random")
    names = {entry.cell.id for entry in killers}

    def run(job):
        return (fail("crashed") if job.cell.id in names else succeed)(job)

    executor.on_node = {"n1": run, "n2": run}
    summary, _ = drive(ledger, [*killers, *others], executor)
    assert not events(ledger, "quarantined")
    assert {lost.entry.cell.id for lost in summary.lost} == names
    assert len(ledger.history.committed) == 6
    assert summary.stopped is None


@pytest.mark.parametrize("error_class", ["host_oom", "user", "timeout", "hub", "preempted"])
def test_only_crashes_speak_against_a_machine(ledger, executor, error_class):
    times = iter(range(4))

    def run(job):
        return (fail(error_class) if next(times, 9) < 4 else succeed)(job)

    executor.on_node["n1"] = run
    drive(ledger, entries(8), executor)
    assert not events(ledger, "quarantined")


def test_the_last_machine_is_not_quarantined_and_the_run_ends_with_a_reason(ledger, executor):
    executor.names, executor.room = [SMALL], 1
    executor.on_node["n1"] = fail("crashed")
    summary, recorder = drive(ledger, entries(9), executor)
    assert not events(ledger, "quarantined")
    assert policy.SUSPECT_CELLS <= len(summary.lost) <= policy.SUSPECT_CELLS + 1
    assert summary.n_left == 9 - len(summary.lost)
    assert "no machine has shown" in summary.stopped
    assert summary.stopped in notes(recorder)
    assert [event["message"] for event in events(ledger, "stopped")] == [summary.stopped]


def test_one_method_of_several_that_crashes_does_not_end_the_run(ledger, executor):
    executor.names, executor.room = [SMALL], 1

    def run(job):
        return (fail("crashed") if job.cell.method == "magnitude" else succeed)(job)

    executor.on_node["n1"] = run
    summary, _ = drive(ledger, [*entries(4, "magnitude"), *entries(3)], executor)
    assert (len(summary.lost), len(ledger.history.committed)) == (4, 3)


def test_a_success_anywhere_is_a_reason_to_go_on():
    tasks = [
        found
        for entry in entries(5)
        for found in tasks_of(entry, entry.suites, seconds=None, attempts_before=0)
    ]
    health = Health()
    for task in tasks[:2]:
        health.failed(task, "n1", "crashed", final=True)
    health.succeeded(tasks[2], "n2")
    health.failed(tasks[3], "n1", "crashed", final=True)
    assert not health.hopeless()
    for task in (tasks[3], tasks[0], tasks[1]):
        health.failed(task, "n1", "node_lost", final=True)
    assert len(health.hopeless()) == 3


def test_a_suspect_machine_is_used_when_it_is_all_that_is_left(ledger, executor):
    crashes = iter([True] * 3)

    def run(job):
        return (fail("crashed") if next(crashes, False) else succeed)(job)

    def second_leaves():
        if events(ledger, "quarantined"):
            executor.names = [SMALL]

    executor.on_node["n1"] = run
    executor.on_poll = second_leaves
    drive(ledger, entries(9), executor)
    assert events(ledger, "quarantined")
    assert len(ledger.history.committed) == 9
    assert [node for _, node in executor.ran].count("n1") > 3


# Poison.


def wrong(job):
    """Fail as a method with a bug does, with another number each time."""
    from execute_helpers import _outcome

    from ssmbench.execute.job import SuiteFailure

    message = f"ValueError: shape [{job.cell.seed}, 16] of '{job.cell.id}' does not fit"
    return _outcome(job, [], [SuiteFailure(tuple(s.id for s in job.suites), "bug", message)])


def failing(method: str, *models: str):
    def run(job):
        wanted = job.cell.method == method and (not models or job.cell.model.name in models)
        return (wrong if wanted else succeed)(job)

    return run


def test_a_method_that_fails_alike_on_two_machines_stops(ledger, executor):
    executor.on_node = dict.fromkeys(("n1", "n2"), failing("magnitude"))
    bad, good = entries(8, "magnitude"), entries(4)
    summary, recorder = drive(ledger, [*bad, *good], executor)
    assert len(ledger.history.committed) == 4
    assert len(executor.ran) < len(bad) + len(good)
    assert {lost.entry.cell.id for lost in summary.lost} == {e.cell.id for e in bad}
    classes = [f.error_class for f in ledger.history.failed.values()]
    assert classes.count("bug") == len(executor.ran) - 4
    assert classes.count("poisoned") == 8 - classes.count("bug")
    (event,) = events(ledger, "poisoned")
    assert (event["method"], event["nodes"]) == ("magnitude", ["n1", "n2"])
    assert "--retry-failed" in notes(recorder)
    poisoned = next(f for f in ledger.history.failed.values() if f.error_class == "poisoned")
    assert "does not fit" in poisoned.message
    assert (ledger.folder.path / poisoned.log).name.endswith(".log")


def test_a_poisoned_cell_counts_no_attempt(ledger, executor):
    executor.on_node = dict.fromkeys(("n1", "n2"), failing("magnitude"))
    drive(ledger, entries(8, "magnitude"), executor)
    counted = read_contents(ledger.folder).history.attempts
    assert sum(counted.values()) == len(executor.ran)


def test_one_machine_alone_poisons_nothing(ledger, executor):
    executor.names = [SMALL]
    executor.on_node["n1"] = failing("magnitude")
    drive(ledger, entries(8, "magnitude"), executor)
    assert {f.error_class for f in ledger.history.failed.values()} == {"bug"}


def test_a_method_that_has_brought_numbers_is_not_poisoned(ledger, executor):
    executor.script = [succeed]
    executor.on_node = dict.fromkeys(("n1", "n2"), failing("magnitude"))
    drive(ledger, entries(8, "magnitude"), executor)
    assert {f.error_class for f in ledger.history.failed.values()} == {"bug"}


def test_numbers_of_an_earlier_run_prove_a_method_too(ledger, executor):
    (first, *rest) = entries(8, "magnitude")
    drive(ledger, [first], executor)
    executor.on_node = dict.fromkeys(("n1", "n2"), failing("magnitude"))
    drive(ledger, rest, executor)
    assert {f.error_class for f in ledger.history.failed.values()} == {"bug"}


def test_an_error_of_one_model_stops_the_method_on_that_model_alone(ledger, executor):
    executor.on_node = dict.fromkeys(("n1", "n2"), failing("magnitude", "broken"))
    bad = entries(6, "magnitude")
    good = [
        make_entry(replace(e.cell, model=replace(e.cell.model, name="fine", fingerprint="f")))
        for e in bad
    ]
    bad = [make_entry(replace(e.cell, model=replace(e.cell.model, name="broken"))) for e in bad]
    summary, _ = drive(ledger, [*bad, *good], executor)
    assert len(ledger.history.committed) == 6
    assert {lost.entry.cell.model.name for lost in summary.lost} == {"broken"}
    assert "poisoned" in {lost.error_class for lost in summary.lost}


def test_different_errors_do_not_add_up(ledger, executor):
    executor.on_node = {"n1": fail("bug"), "n2": wrong}
    drive(ledger, entries(2, "magnitude"), executor)
    assert not events(ledger, "poisoned")


# Where a retry goes.


@pytest.mark.parametrize("error_class", ["crashed", "node_lost"])
def test_a_lost_attempt_is_tried_elsewhere(ledger, executor, error_class):
    (entry,) = entries(1)
    executor.script = [fail(error_class)]
    drive(ledger, [entry], executor)
    assert nodes_of(executor, entry) == ["n1", "n2"]


def test_a_lost_attempt_is_tried_again_on_the_only_machine(ledger, executor):
    executor.names = [SMALL]
    executor.script = [fail("crashed")]
    drive(ledger, entries(1), executor)
    assert len(ledger.history.committed) == 1


def test_full_memory_asks_for_a_larger_machine(ledger, executor):
    executor.names = [SMALL, BIG]
    executor.script = [fail("host_oom")]
    (entry,) = entries(1)
    drive(ledger, [entry], executor)
    assert nodes_of(executor, entry) == ["n1", "n2"]
    assert [job.batch_tokens for job in executor.jobs] == [1024, 1024]


def test_full_memory_of_the_largest_machine_halves_the_batch(ledger, executor):
    executor.names = [SMALL, TWIN]
    executor.script = [fail("host_oom")]
    drive(ledger, entries(1), executor)
    assert [job.batch_tokens for job in executor.jobs] == [1024, 512]


def test_a_larger_machine_that_leaves_meanwhile_halves_the_batch(ledger, executor):
    executor.names, executor.room = [SMALL, BIG], 2
    executor.script = [fail("host_oom")]

    def leave():
        if executor.jobs and not executor.running:
            executor.names = [SMALL]

    executor.on_poll = leave
    drive(ledger, entries(1), executor)
    assert [job.batch_tokens for job in executor.jobs] == [1024, 512]


# Lost machines.


@pytest.mark.parametrize(
    ("fate", "error_class"), [("alive", "crashed"), ("leaving", "preempted"), ("lost", "node_lost")]
)
def test_a_dead_worker_is_seen_in_view_of_its_machine(ledger, executor, fate, error_class):
    executor.fates["n1"] = fate
    executor.script = [die(WorkerCrashedError())]
    drive(ledger, entries(1), executor)
    assert [f["error_class"] for f in events(ledger, "failed")] == [error_class]


def test_preemption_uses_up_no_budget(ledger, executor):
    executor.names = [SMALL]
    executor.script = [fail("preempted")] * 20 + [fail("crashed")] * 3
    summary, _ = drive(ledger, entries(1), executor)
    assert len(ledger.history.committed) == 1
    assert summary.n_retried == 23


def test_a_silent_machine_that_does_not_answer_is_given_up_soon(ledger, executor):
    (entry,) = entries(1)
    went_s = []

    def cut():
        if executor.running and not executor.silent:
            executor.silent["n1"] = executor.clock.now
            executor.unreachable.add("n1")
            went_s.append(executor.clock.now)
        if len(executor.ran) > 1:
            went_s.append(executor.clock.now)

    executor.on_poll = cut
    summary, _ = drive(ledger, [entry], executor)
    assert nodes_of(executor, entry) == ["n1", "n2"]
    assert [f["error_class"] for f in events(ledger, "failed")] == ["node_lost"]
    assert policy.SILENT_UNREACHABLE_S <= went_s[1] - went_s[0] < 25
    assert summary.n_retried == 1
    assert len(ledger.history.committed) == 1


def test_a_machine_that_still_answers_is_waited_for_longer(ledger, executor):
    executor.names = [SMALL]
    (entry,) = entries(1, timeout_s=1e6)
    heard = []

    def mute():
        if executor.running and not executor.silent:
            executor.silent["n1"] = executor.clock.now
        if executor.cancels and not heard:
            heard.append(executor.clock.now - executor.silent["n1"])
        elif heard:
            executor.silent = {"nobody": 0.0}

    executor.on_poll = mute
    drive(ledger, [entry], executor)
    assert policy.SILENT_S < heard[0] < policy.SILENT_S + 2
    assert "no sign of life" in events(ledger, "failed")[0]["message"]


def test_the_late_result_of_a_machine_that_was_given_up_does_not_count(ledger, executor):
    (entry,) = entries(1)
    late = []

    def cut():
        if executor.running and not executor.silent:
            executor.silent["n1"] = executor.clock.now
            executor.unreachable.add("n1")
        if len(executor.ran) > 1 and not late:
            first = executor.jobs[0]
            late.append(first.attempt_id)
            write(first, *first.suites)
            outcome = {"failures": [], "started_s": 0.0, "ended_s": 1.0}
            give = executor.poll
            executor.poll = lambda s: [
                Ended(first.attempt_id, outcome, None, "n1", "alive"),
                *give(s),
            ]
            executor.on_poll = lambda: setattr(executor, "poll", give)

    executor.on_poll = cut
    drive(ledger, [entry], executor)
    second = executor.jobs[1].attempt_id
    assert set(ledger.history.committed.values()) == {second}
    assert ledger.adopt() == []


def test_an_overdue_attempt_of_a_machine_that_does_not_answer_is_given_up(ledger, executor):
    executor.seconds = 1e9
    executor.unreachable.add("n1")
    summary, _ = drive(ledger, entries(1, timeout_s=60.0), executor)
    assert [lost.error_class for lost in summary.lost] == ["timeout"]
    assert summary.seconds < 65


def test_an_overdue_attempt_that_cannot_be_ended_is_given_up(ledger, executor):
    executor.seconds = 1e9
    executor.cancel = lambda attempt_id, force: None
    summary, _ = drive(ledger, entries(1, timeout_s=60.0), executor)
    assert [lost.error_class for lost in summary.lost] == ["timeout"]
    assert 60 + policy.OVERDUE_S <= summary.seconds < 62 + policy.OVERDUE_S


def test_when_no_machine_is_left_the_run_says_so_and_waits(ledger, executor):
    polls = []

    def come_and_go():
        polls.append(1)
        executor.names = [] if 10 < len(polls) < 100 else [SMALL]

    executor.on_poll = come_and_go
    _, recorder = drive(ledger, entries(12), executor)
    told = notes(recorder)
    assert told.count("waiting for a machine: asked for 1 CPUs; found no machine") == 1
    assert told.count("is there again") == 1
    assert len(ledger.history.committed) == 12


def test_without_a_machine_only_one_timing_attempt_asks_for_one(ledger, executor):
    waiting = []

    def come():
        waiting.append(len(executor.queued))
        executor.names = [SMALL] if len(waiting) > 20 else []

    executor.names, executor.on_poll = [], come
    timing = [make_entry(entry.cell, "latency") for entry in entries(3)]
    drive(ledger, timing, executor)
    assert max(waiting[:20]) == 1
    assert len(ledger.history.committed) == 3


# Requests from other terminals.


def test_a_request_of_another_terminal_stops_the_run(ledger, executor):
    executor.seconds, stop = 3.0, Stop()
    polls = []
    executor.on_poll = lambda: polls.append(1)
    summary, _ = drive(
        ledger, entries(20), executor, stop=stop, requests=lambda: int(len(polls) > 5)
    )
    assert stop.level == 1
    assert len(ledger.history.committed) in {2, 4}
    assert summary.n_left == 20 - len(ledger.history.committed)


def test_a_request_to_stop_at_once_ends_what_runs(ledger, executor):
    executor.seconds = 1e9
    polls = []
    executor.on_poll = lambda: polls.append(1)
    summary, _ = drive(ledger, entries(4), executor, requests=lambda: 2 * (len(polls) > 5))
    assert summary.n_left == 4
    assert len(polls) < 30


# What an attempt is given.


def test_quality_shares_a_gpu_and_timing_does_not(ledger, executor):
    half = make_entry(make_cell(), "zero_shot", "latency", resources=Resources(num_gpus=0.5))
    drive(ledger, [half], executor)
    quality, timing = executor.jobs
    assert (quality.kind, quality.gpu_share, quality.device) == ("quality", 0.5, "cuda")
    assert (timing.kind, timing.gpu_share) == ("timing", 1.0)
    assert [demand.alone for demand in executor.demands] == [False, True]
