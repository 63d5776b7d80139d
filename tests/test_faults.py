"""Faults of a cluster of three machines: real Ray nodes and processes, killed for real."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from execute_helpers import drive, make_entry
from store_helpers import new_run
from test_execute_health import entries, events, notes
from test_ray import Watch

from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GB = 2**30


class Machines:
    """A Ray cluster on this machine: a head that takes no work, and nodes that come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": GB},
        )
        self.address = self._cluster.address
        self._nodes = [self._add(2 * GB), self._add(2 * GB), self._add(6 * GB)]

    def alive(self, n: int) -> list[str]:
        """Give the ids of the living nodes, which are made n at least; the largest is the last."""
        self._nodes = [node for node in self._nodes if raylet(node).poll() is None]
        while len(self._nodes) < n:
            self._nodes.insert(0, self._add(2 * GB))
        return [node.node_id for node in self._nodes]

    def kill(self, node_id: str) -> None:
        """End a machine as a power cut does: every process, at once."""
        node = self._by_id(node_id)
        process = psutil.Process(raylet(node).pid)
        for found in [process, *process.children(recursive=True)]:
            found.kill()
        # A raylet that is not waited for lives on as a zombie, and its workers with it.
        raylet(node).wait()

    def preempt(self, node_id: str) -> None:
        """Take a machine away as a cloud takes back a spot instance: with notice, then SIGTERM."""
        import ray
        from ray.core.generated import autoscaler_pb2

        accepted, _ = ray._raylet.GcsClient(address=self.address).drain_node(
            node_id,
            autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION,
            "spot instance",
            int(time.time() * 1000) + 60_000,
        )
        assert accepted
        raylet(self._by_id(node_id)).send_signal(signal.SIGTERM)

    def close(self) -> None:
        self._cluster.shutdown()

    def _add(self, memory: int):
        return self._cluster.add_node(num_cpus=1, memory=memory, object_store_memory=GB)

    def _by_id(self, node_id: str):
        return next(node for node in self._nodes if node.node_id == node_id)


def raylet(node):
    return node.all_processes["raylet"][0].process


@pytest.fixture(scope="module")
def machines():
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    from ssmbench.execute.ray import RayExecutor

    made = Machines()
    try:
        # Connects this process; the tests' own executors join in.
        connection = RayExecutor(address=made.address)
        yield made
        connection.close()
    finally:
        made.close()


@pytest.fixture
def start(machines):
    """Give a function that makes executors on the cluster."""
    from ssmbench.execute.ray import RayExecutor

    opened = []

    def make(function: str) -> Watch:
        opened.append(RayExecutor(target=f"execute_helpers:{function}", isolate=False))
        return Watch(opened[-1])

    yield make
    for executor in opened:
        executor.close()


@pytest.fixture
def ledger(tmp_path: Path):
    with Ledger.open(new_run(tmp_path / "run")) as opened:
        yield opened


def at_first_sign(watch: Watch, act: Callable[[str], None]) -> list[str]:
    """Do something to the machine of the first attempt that is heard of; give its id later."""
    struck: list[str] = []
    listen = watch.signs

    def signs():
        found = listen()
        known = [sign.node for sign in found.values() if sign.step.name == "stay"]
        if known and not struck:
            struck.append(known[0])
            act(known[0])
        return found

    watch.signs = signs
    return struck


def failures(ledger: Ledger) -> list[tuple[str, str]]:
    return [(f["error_class"], f["node"]) for f in events(ledger, "failed")]


def test_a_machine_that_kills_what_runs_there_is_quarantined(machines, start, ledger, tmp_path):
    bad, *_ = machines.alive(3)
    (tmp_path / "bad").write_text(bad)
    watch = start("crash_on_bad_nodes")
    listen = watch.signs

    def signs():
        if events(ledger, "quarantined"):
            (tmp_path / "seen").touch()
        return listen()

    watch.signs = signs
    summary, recorder = drive(ledger, entries(12), watch)
    assert len(ledger.history.committed) == 12
    assert not summary.lost
    assert set(failures(ledger)) == {("crashed", bad)}
    (event,) = events(ledger, "quarantined")
    assert event["node"] == bad
    assert "nothing more is given to it" in notes(recorder)


def test_a_method_that_fails_on_every_machine_is_stopped(machines, start, ledger):
    machines.alive(3)
    bad, good = entries(12, "magnitude"), entries(3)
    summary, _ = drive(ledger, [*bad, *good], start("fail_with_magnitude"))
    assert len(ledger.history.committed) == 3
    assert {lost.entry.cell.id for lost in summary.lost} == {entry.cell.id for entry in bad}
    classes = [failure.error_class for failure in ledger.history.failed.values()]
    assert classes.count("poisoned") >= 5
    assert len(events(ledger, "poisoned")[0]["nodes"]) == 2


def test_what_filled_a_machines_memory_moves_to_a_larger_one(machines, start, ledger, tmp_path):
    *small, _large = machines.alive(3)
    (tmp_path / "bad").write_text(" ".join(small))
    watch = start("fill_memory_of_bad_nodes")
    summary, _ = drive(ledger, entries(4), watch)
    assert not summary.lost
    assert len(ledger.history.committed) == 4
    assert {kind for kind, _ in failures(ledger)} <= {"host_oom"}
    assert {node for _, node in failures(ledger)} <= set(small)
    assert {job.batch_tokens for job in watch.jobs} == {1024}


def test_a_machine_that_is_taken_back_costs_no_retry(machines, start, ledger):
    machines.alive(2)
    watch = start("stay_once")
    struck = at_first_sign(watch, machines.preempt)
    summary, _ = drive(ledger, [make_entry(None, "zero_shot", "perplexity")], watch)
    assert failures(ledger) == [("preempted", struck[0])]
    assert [[s.name for s in j.suites] for j in watch.jobs][1] == ["perplexity"]
    assert len(ledger.history.committed) == 2
    assert not summary.lost


def test_a_killed_machines_cell_runs_elsewhere(machines, start, ledger):
    machines.alive(2)
    watch = start("stay_once")
    struck = at_first_sign(watch, machines.kill)
    began_s = time.monotonic()
    drive(ledger, [make_entry(None, "zero_shot", "perplexity")], watch)
    assert failures(ledger) == [("node_lost", struck[0])]
    assert time.monotonic() - began_s < 45
    assert [[s.name for s in j.suites] for j in watch.jobs][1] == ["perplexity"]
    assert len(ledger.history.committed) == 2
