"""Attempts on a real local Ray: how processes end, and what they are given. One cluster for all."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from execute_helpers import drive, make_entry
from store_helpers import make_cell, new_run

from ssmbench.execute.executor import Demand
from ssmbench.execute.interrupts import Stop
from ssmbench.plan.cells import Resources
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from ssmbench.execute.job import Job

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster():
    """Start Ray once: 2 CPUs, loopback, no token."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    # Workers import the made-up attempts from here.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    from ssmbench.execute.ray import RayExecutor

    executor = RayExecutor(local_cpus=2, target="execute_helpers:pids")
    yield executor
    executor.close()


@pytest.fixture
def start(cluster):
    """Give a function that makes executors on the running cluster."""
    from ssmbench.execute.ray import RayExecutor

    made = []

    def make(function: str, **options):
        made.append(RayExecutor(target=f"execute_helpers:{function}", **options))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger.open(new_run(tmp_path / "run")) as opened:
        yield opened


class Watch:
    """Passes everything on to an executor and keeps what it was given and what came back."""

    def __init__(self, executor) -> None:
        self._executor = executor
        self.jobs: list[Job] = []
        self.outcomes: list[dict] = []
        self.seen: set[str] = set()

    def __getattr__(self, name: str):
        return getattr(self._executor, name)

    def submit(self, job, demand):
        self.jobs.append(job)
        self._executor.submit(job, demand)

    def poll(self, timeout_s):
        ended = self._executor.poll(timeout_s)
        self.outcomes += [dict(e.outcome) for e in ended if e.outcome is not None]
        return ended

    def signs(self):
        signs = self._executor.signs()
        self.seen |= {sign.step.name for sign in signs.values()}
        return signs


def cells(n: int, **options) -> list:
    return [make_entry(make_cell(ratio=i / 100), **options) for i in range(n)]


def test_reused_workers_serve_many_attempts(ledger, start):
    watch = Watch(start("pids", isolate=False))
    drive(ledger, cells(6), watch)
    assert len(ledger.history.committed) == 6
    assert len({o["pid"] for o in watch.outcomes}) <= 2


def test_isolated_attempts_have_a_process_each(ledger, start):
    watch = Watch(start("pids", isolate=True))
    drive(ledger, cells(3), watch)
    assert len({o["pid"] for o in watch.outcomes}) == 3


def test_a_worker_has_the_environment_of_its_cpus(ledger, start):
    watch = Watch(start("pids", isolate=False, offline=True))
    drive(ledger, [make_entry(resources=Resources(num_cpus=2))], watch)
    assert watch.outcomes[0]["env"] == {
        "OMP_NUM_THREADS": "2",
        "DISABLE_MULTIPROC": "1",
        "HF_HUB_OFFLINE": "1",
    }


def test_a_killed_worker_is_a_crash_and_only_the_rest_is_tried_again(ledger, start):
    watch = Watch(start("crash_once"))
    entry = make_entry(None, "zero_shot", "perplexity")
    _, recorder = drive(ledger, [entry], watch)
    assert recorder.lines[0] == ("retried", "crashed 1")
    assert [[s.name for s in job.suites] for job in watch.jobs] == [
        ["zero_shot", "perplexity"],
        ["perplexity"],
    ]
    assert len(ledger.history.committed) == 2


def test_an_exception_that_cannot_travel_is_still_an_outcome(ledger, start):
    summary, _ = drive(ledger, cells(1), start("raise_two_arguments", isolate=False))
    assert [lost.error_class for lost in summary.lost] == ["bug"]


def test_a_hanging_attempt_is_ended_at_its_timeout(ledger, start):
    began = time.monotonic()
    summary, _ = drive(ledger, cells(1, timeout_s=1.0), start("hang"))
    assert [lost.error_class for lost in summary.lost] == ["timeout"]
    assert time.monotonic() - began < 20


def test_an_attempt_past_its_timeout_can_keep_its_place(ledger, start):
    summary, _ = drive(ledger, cells(1, timeout_s=1.0), start("keep_place"))
    assert [lost.error_class for lost in summary.lost] == ["timeout"]
    assert (ledger.folder.path / "place").read_text() == "kept"


def test_an_attempt_that_a_stop_ends_can_keep_its_place(ledger, start):
    stop = Stop()

    class Stopping(Watch):
        def signs(self):
            signs = super().signs()
            if "train" in self.seen:
                stop.level = 2
            return signs

    executor = start("keep_place")
    summary, _ = drive(ledger, cells(1), Stopping(executor), stop=stop)
    assert summary.n_left == 1
    executor.close()
    assert (ledger.folder.path / "place").read_text() == "kept"


def test_steps_reach_the_display_and_a_lost_board_does_not_matter(ledger, start):
    executor = start("slow", isolate=False)
    watch = Watch(executor)
    drive(ledger, cells(4), watch)
    assert "slow" in watch.seen
    executor._ray.kill(executor._board, no_restart=True)
    drive(ledger, [make_entry(make_cell(ratio=0.9))], watch)
    assert len(ledger.history.committed) == 5


def test_timing_has_the_machine_for_itself(ledger, start):
    watch = Watch(start("slow", isolate=False))
    entries = [make_entry(make_cell(ratio=r), "latency") for r in (0.1, 0.2)]
    drive(ledger, entries, watch)
    spans = sorted((o["started_s"], o["ended_s"]) for o in watch.outcomes)
    assert len(spans) == 2
    ends = [ledger.folder.outcome_file(j.cell.id, j.attempt_id).stat().st_mtime for j in watch.jobs]
    assert abs(ends[0] - ends[1]) >= 0.9


def test_what_an_attempt_prints_is_in_its_log(ledger, start):
    watch = Watch(start("noisy_attempt", isolate=False))
    summary, _ = drive(ledger, cells(1), watch)
    assert not summary.lost
    text = (ledger.folder.path / watch.jobs[0].log).read_text()
    assert "from python" in text
    assert "from a child" in text


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (Resources(num_cpus=99), "99 CPUs"),
        (Resources(num_gpus=4), "4 GPUs"),
        (Resources(memory_gb=1e6), "GB of memory"),
        (Resources(accelerator_type="H100"), "accelerator H100"),
        (Resources(labels={"zone": "moon"}), "label zone=moon"),
    ],
)
def test_what_no_machine_has_is_said_before_anything_is_submitted(cluster, resources, words):
    problem = cluster.check(resources)
    assert words in problem
    assert "found 1 × (2 CPUs" in problem


def test_what_the_machine_has_is_accepted(cluster):
    assert cluster.check(Resources(num_cpus=2)) is None
    assert cluster.slots(Demand(Resources(num_cpus=1))) == 2
    assert cluster.slots(Demand(Resources(num_cpus=2))) == 1
