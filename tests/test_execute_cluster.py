"""The pieces of a cluster without one: signs of life, fates of machines, what is asked of Ray."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace

import pytest
import torch
from execute_helpers import Clock

from ssmbench.execute import isolation, nodes, worker
from ssmbench.execute.cluster import Cluster, node_in
from ssmbench.execute.executor import Demand, Step
from ssmbench.plan.cells import Resources

ID = "f899dcdc48dd148a9c20a8c02bbe57efb1f7db9aaaabc5ce4f00cee5"


def node(name: str, cpus: float = 4, gpus: float = 0, *, alive: bool = True, reason: int = 0):
    return {
        "NodeID": name,
        "Alive": alive,
        "DeathReason": reason,
        "NodeManagerAddress": "127.0.0.1",
        "NodeManagerPort": 1,
        "Resources": {"CPU": cpus, "GPU": gpus},
        "Labels": {},
    }


def cluster(*found: dict, draining: tuple[str, ...] = ()) -> Cluster:
    accessor = SimpleNamespace(get_draining_nodes=lambda: dict.fromkeys(draining, 0))
    private = SimpleNamespace(state=SimpleNamespace(state=accessor))
    direct = SimpleNamespace(client=SimpleNamespace(ray=SimpleNamespace(is_connected=bool)))
    return Cluster(SimpleNamespace(nodes=lambda: list(found), _private=private, util=direct))


# The board and the attempts' voices.


def test_the_board_tells_how_long_an_attempt_has_been_silent():
    clock = Clock()
    board = worker.Board(clock=clock)
    board.put("a", "n1", ("load", 0, 0))
    clock.now += 7
    board.put("b", "n2", ("load", 0, 0))
    assert board.snapshot() == {
        "a": worker.Heard(("load", 0, 0), "n1", 7.0),
        "b": worker.Heard(("load", 0, 0), "n2", 0.0),
    }


def test_the_board_drops_what_has_ended_and_still_knows_where_it_was():
    board = worker.Board()
    board.put("a", "n1", ("load", 0, 0))
    board.put("a", "n1", None)
    board.put("b", "n2", ("load", 0, 0))
    assert board.forget("b") == "n2"
    assert board.snapshot() == {}
    assert board.forget("a") == "n1"
    assert board.forget("never heard of") is None


def test_the_board_does_not_grow_with_the_run():
    board = worker.Board()
    for i in range(3000):
        board.put(str(i), "n1", None)
    assert len(board._nodes) == worker._REMEMBERED
    assert board.forget("2999") == "n1"


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.01)


class Told:
    """A board as an attempt sees it."""

    def __init__(self) -> None:
        self.heard: list = []
        self.put = SimpleNamespace(remote=lambda *told: self.heard.append(told))


def test_an_attempt_that_reports_nothing_still_gives_signs_of_life(monkeypatch):
    monkeypatch.setattr(worker, "BEAT_EVERY_S", 0.01)
    monkeypatch.setattr(worker, "_REPORT_EVERY_S", 0.01)
    board = Told()
    voice = worker._Voice(board, "a", "n1")
    voice.begin()
    wait_for(lambda: len(board.heard) >= 3)
    voice.end()
    assert board.heard[0] == board.heard[1] == ("a", "n1", Step("start", 0, 0))
    wait_for(lambda: board.heard[-1] == ("a", "n1", None))
    n_told = len(board.heard)
    time.sleep(0.05)
    assert len(board.heard) == n_told, "a sign of life after the end"


def test_steps_are_told_a_few_times_a_second_only_and_the_last_one_soon(monkeypatch):
    monkeypatch.setattr(worker, "_REPORT_EVERY_S", 0.05)
    board = Told()
    voice = worker._Voice(board, "a", "n1")
    voice.begin()
    began_s = time.monotonic()
    for i in range(1000):
        voice.report("x", i, 1000)
    voice.report("y", 0, 0)
    most = 3 + (time.monotonic() - began_s) / 0.05
    wait_for(lambda: board.heard[-1][2] == Step("y", 0, 0))
    voice.end()
    assert len(board.heard) <= most


def test_the_board_forgets_attempts_whose_end_was_never_told():
    clock = Clock()
    board = worker.Board(clock=clock)
    board.put("a", "n1", ("load", 0, 0))
    clock.now += worker._FORGOTTEN_S + 1
    board.put("b", "n1", ("load", 0, 0))
    assert set(board.snapshot()) == {"b"}
    assert set(board.snapshot()) == set(board._running)


def test_an_attempt_does_not_mind_a_board_that_is_gone():
    def broken(*_):
        raise ConnectionError

    voice = worker._Voice(SimpleNamespace(put=SimpleNamespace(remote=broken)), "a", "n1")
    voice.begin()
    voice.report("x", 0, 0)
    voice.end()


# Machines.


def test_a_machines_fate():
    found = cluster(
        node("there"),
        node("stopped", alive=False, reason=1),
        node("vanished", alive=False, reason=2),
        node("preempted", alive=False, reason=3),
        node("draining"),
        draining=("draining",),
    )
    fates = {
        name: found.fate(name)
        for name in ("there", "stopped", "vanished", "preempted", "draining", "never", None)
    }
    assert fates == {
        "there": "alive",
        "stopped": "leaving",
        "vanished": "lost",
        "preempted": "leaving",
        "draining": "leaving",
        "never": None,
        None: None,
    }


def test_a_machine_that_was_told_to_leave_is_leaving_when_it_has_vanished():
    found = cluster(node("spot"), draining=("spot",))
    assert found.fate("spot") == "leaving"
    gone = cluster(node("spot", alive=False, reason=2))
    found._ray = gone._ray
    assert found.fate("spot") == "leaving"


def test_work_is_given_to_living_machines_that_stay():
    found = cluster(node("a"), node("b", alive=False), node("c"), draining=("c",))
    assert [n["NodeID"] for n in found.alive()] == ["a"]


def test_a_machine_is_reachable_if_its_raylet_takes_a_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = node("there") | {"NodeManagerPort": server.getsockname()[1]}
        dead = {**there, "NodeID": "dead", "Alive": False}
        found = cluster(there, dead, node("deaf"))
        assert found.is_reachable("there")
        assert not found.is_reachable("dead")
        assert not found.is_reachable("deaf")
        assert not found.is_reachable("never")


def test_rays_errors_name_the_machine():
    text = f"Task failed because the node is dead. Node IP: 10.0.0.1, node ID: {ID}. See"
    assert node_in(RuntimeError(text)) == ID
    assert node_in(RuntimeError("The worker died unexpectedly")) is None


# What is asked of Ray.


def test_machines_to_avoid_become_a_label_selector():
    assert nodes.options(Resources(), {"b", "a"})["label_selector"] == {
        "ray.io/node-id": "!in(a,b)"
    }
    named = Resources(labels={"zone": "x", "ray.io/node-id": "c"})
    assert nodes.options(named, {"a"})["label_selector"] == dict(named.labels)
    assert "label_selector" not in nodes.options(Resources())


def test_timing_on_the_processor_asks_for_a_whole_machine():
    found = [node("small", 4), node("large", 16)]
    assert nodes.asked_of(found, Demand(Resources(num_cpus=2), alone=True)).num_cpus == 16
    kept = Demand(Resources(num_cpus=2), alone=True, avoid=frozenset({"large"}))
    assert nodes.asked_of(found, kept).num_cpus == 4
    assert nodes.asked_of([], Demand(Resources(num_cpus=2), alone=True)).num_cpus == 2


def test_timing_on_gpus_asks_for_whole_ones_and_leaves_the_other_gpus():
    found = [node("gpus", 16, 8)]
    shared = Resources(num_cpus=2, num_gpus=0.5)
    assert nodes.asked_of(found, Demand(shared, alone=True)) == Resources(num_cpus=2, num_gpus=1)
    assert nodes.asked_of(found, Demand(shared)) == shared


@pytest.mark.parametrize(("gpus", "words"), [(1.5, "whole number"), (4, "found 1 ×"), (0.5, None)])
def test_parts_of_gpus_are_parts_of_one(gpus, words):
    said = nodes.problem([node("a", gpus=2)], Resources(num_gpus=gpus))
    assert said is None if words is None else words in said


def test_an_attempt_keeps_to_its_part_of_the_gpus_memory(monkeypatch):
    parts: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", parts.append)
    with isolation._gpu_memory_of(0.25):
        assert parts == [0.25]
    assert parts == [0.25, 1.0]
