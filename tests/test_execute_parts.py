"""The small parts of running: environment, surroundings, nodes, display arithmetic, signals."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from execute_helpers import make_entry, succeed
from store_helpers import make_cell, make_suite, new_run

from ssmbench.execute import environment, isolation, nodes, progress
from ssmbench.execute.executor import Demand, Step
from ssmbench.execute.inline import DeadlineError, InlineExecutor
from ssmbench.execute.interrupts import Stop, listening
from ssmbench.execute.job import Job
from ssmbench.execute.progress import Running, State
from ssmbench.execute.scratch import Scratch
from ssmbench.kernels.memory import keep_freed_memory
from ssmbench.plan.cells import Calibration, Resources
from ssmbench.suites import _peak


@pytest.fixture
def job(tmp_path: Path) -> Job:
    cell = make_cell()
    return Job(
        folder=str(new_run(tmp_path / "run").path),
        cell=cell,
        suites=(make_suite(),),
        attempt_id="a1",
        number=1,
        log=f"logs/{cell.id}/a1.log",
        data=None,
        device="cpu",
        batch_tokens=512,
        num_cpus=1,
        offline=True,
        capture=True,
    )


def test_a_job_survives_json(job):
    calibration = Calibration("wikitext", 8, 64, 1)
    job = Job(**{**vars(job), "cell": replace(job.cell, calibration=calibration)})
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_the_environment_is_json_and_names_what_made_the_numbers():
    found = json.loads(json.dumps(environment.describe()))
    assert {"python", "torch", "polars"} <= set(found["versions"])
    assert found["host"]
    assert found["git_dirty"] in (True, False, None)


def test_a_cpu_device_is_named_with_its_threads():
    assert environment.device_name(num_cpus=2.5, num_gpus=0).endswith(", 2 threads")
    assert environment.device_name(num_cpus=0, num_gpus=0).endswith(", 1 thread")
    assert environment.device_name(num_cpus=1, num_gpus=1, accelerator_type="H100") == "H100"


def test_surroundings_are_put_back(job, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("DISABLE_MULTIPROC", raising=False)
    threads, level = torch.get_num_threads(), logging.getLogger().level
    with isolation.surroundings(job):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "DISABLE_MULTIPROC" not in os.environ
    assert logging.getLogger().level == level


def test_prints_logs_and_children_end_in_the_log(job, capfd):
    with isolation.surroundings(job):
        sys.stdout.write("python\n")
        os.system("echo child")
        logging.getLogger("x").info("logged")
    sys.stdout.write("outside\n")
    text = (Path(job.folder) / job.log).read_text()
    assert all(word in text for word in ("python", "child", "logged"))
    assert capfd.readouterr().out == "outside\n"


def test_seeding_makes_all_three_generators_start_anew():
    def draw():
        legacy = np.random.rand()  # noqa: NPY002 - libraries draw from it
        return random.random(), legacy, torch.rand(1).item()

    isolation.seed_everything(3)
    first = draw()
    draw()
    isolation.seed_everything(3)
    assert draw() == first


def test_peak_memory_is_counted_from_the_reset():
    # An attempt keeps what it frees; the next one's peak must not hide in it.
    keep_freed_memory()
    del_me = [bytearray(16 << 20) for _ in range(8)]
    del del_me
    _peak.begin()
    before = _peak.host_bytes()
    block = bytearray(64 << 20)
    after = _peak.host_bytes()
    assert after - before > len(block) // 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells memory")
def test_a_count_of_its_own_does_not_hide_the_peak_before_it():
    _peak.begin()
    block = bytearray(64 << 20)
    reached = _peak.host_bytes()
    del block
    held = _peak.recount_host()
    assert held < reached - (32 << 20)
    assert reached <= _peak.host_bytes() < reached + (8 << 20)
    _peak.begin()
    assert _peak.host_bytes() < reached - (32 << 20)


def test_nor_does_one_on_a_gpu(monkeypatch):
    held = [900]

    def reset(*_: object) -> None:
        held[0] = 100

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: held[0])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 100)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    _peak.begin()
    assert _peak.gpu_bytes() == 100
    held[0] = 500
    assert _peak.recount_gpu(torch.device("cuda")) == 100
    assert _peak.gpu_bytes() == 500
    held[0] = 600
    assert _peak.gpu_bytes() == 600


def node(**resources: float) -> dict:
    return {"Resources": resources, "Labels": {"zone": "a"}}


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (Resources(num_cpus=4), True),
        (Resources(num_cpus=5), False),
        (Resources(num_gpus=1), True),
        (Resources(num_gpus=3), False),
        (Resources(memory_gb=8), True),
        (Resources(memory_gb=9), False),
        (Resources(accelerator_type="H100"), True),
        (Resources(accelerator_type="B200"), False),
        (Resources(labels={"zone": "a"}), True),
        (Resources(labels={"zone": "in(a, b)"}), True),
        (Resources(labels={"zone": "!a"}), False),
        (Resources(labels={"zone": "!in(b,c)"}), True),
        (Resources(labels={"region": "x"}), False),
    ],
)
def test_a_node_fits_if_it_has_everything(wanted, fits):
    big = node(CPU=4, GPU=2, memory=8 * 2**30, **{"accelerator_type:H100": 1})
    assert nodes.fits(big, wanted) is fits


def test_capacity_is_that_of_the_scarcest_resource():
    assert nodes.capacity(node(CPU=8, GPU=2), Resources(num_cpus=1, num_gpus=1)) == 2
    assert nodes.capacity(node(CPU=8, GPU=2), Resources(num_cpus=3)) == 2
    assert nodes.capacity(node(CPU=8), Resources(num_cpus=0.5)) == 16


def running(job: Job, estimate_s: float | None, started_s: float) -> Running:
    return Running(job, estimate_s, started_s, Step("x", 1, 2))


def test_time_left_scales_estimates_by_what_finished(job):
    state = State(
        now_s=10, waiting_s=(4.0, 4.0), n_finished=2, finished_s=20.0, finished_estimate_s=10.0
    )
    assert progress.time_left_s(state) == 16
    assert progress.time_left_s(state._replace(n_slots=2)) == 8


def test_time_left_is_at_least_that_of_the_longest_running_attempt(job):
    state = State(now_s=10, running=(running(job, 100.0, 0.0),), n_slots=8)
    assert progress.time_left_s(state) == 90


def test_time_left_is_unknown_before_anything_finished(job):
    state = State(now_s=10, waiting_s=(None,))
    assert progress.time_left_s(state) is None
    assert progress.time_left_s(state._replace(n_finished=1, finished_s=3.0)) == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (125, "2 min 5 s"),
        (3599.9, "59 min 59 s"),
        (4800, "1 h 20 min"),
    ],
)
def test_durations_are_written_for_people(seconds, text):
    assert progress.duration(seconds) == text


def test_a_step_shows_its_rate_and_time_left():
    assert progress.pace(Step("x", 60, 100), (0.0, 20), 2.0) == "20/s 2.0 s left"
    assert progress.pace(Step("x", 20, 100), (0.0, 20), 2.0) == ""
    assert progress.pace(Step("x", 5, 0), (0.0, 0), 2.0) == ""


def test_the_live_display_draws_running_attempts(job, monkeypatch):
    import io

    from rich.console import Console

    from ssmbench import console

    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(console, "err", lambda: terminal)
    display = progress.LiveDisplay(folder="runs/x", clock=lambda: 12.0)
    display.show(
        State(now_s=10.0, n_cells=3, n_cells_done=2, running=(running(job, None, 4.0),), n_failed=1)
    )
    with terminal.capture() as captured:
        terminal.print(display._render())
    display.attempt_failed(job, job.suites, "user", "no data")
    display.close()
    text = captured.get()
    assert job.cell.label in text
    assert "1/2" in text
    assert "8.0 s" in text
    assert "2 of 3 cells done · 1 attempt running · 0 waiting · 1 failed" in text
    assert f"runs/x/{job.log}" in terminal.file.getvalue()


def test_inline_deadlines_end_an_attempt_at_its_next_report(job):
    executor = InlineExecutor(target="test_execute_parts:reports_for_ever")
    executor.on_step = lambda: executor.cancel(job.attempt_id, force=True)
    executor.submit(job, Demand(Resources()))
    with pytest.raises(DeadlineError):
        executor.poll(0)


def reports_for_ever(job, report):
    while True:
        report("x", 0, 0)


def test_inline_runs_in_this_process_and_waits_when_idle(job):
    pauses = []
    executor = InlineExecutor(target="test_execute_parts:in_process", pause=pauses.append)
    assert executor.poll(0.25) == []
    assert pauses == [0.25]
    executor.submit(job, Demand(Resources()))
    (ended,) = executor.poll(0.25)
    assert ended.outcome["pid"] == os.getpid()
    executor.submit(job, Demand(Resources()))
    executor.cancel(job.attempt_id, force=False)
    (ended,) = executor.poll(0.25)
    assert isinstance(ended.error, KeyboardInterrupt)


def in_process(job, report):
    return succeed(job)


def test_inline_refuses_what_this_machine_lacks():
    executor = InlineExecutor()
    assert "CPUs" in executor.check(Resources(num_cpus=100_000))
    assert executor.check(Resources(num_cpus=1)) is None
    if not torch.cuda.is_available():
        assert "GPU" in executor.check(Resources(num_gpus=1))


def test_interrupts_raise_the_level_and_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    stop = Stop()
    with listening(stop, breaks_in=False):
        signal.raise_signal(signal.SIGINT)
        assert stop.level == 1
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.level == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_interrupt_breaks_into_inline_work():
    stop = Stop(level=1)
    with listening(stop, breaks_in=True), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_sigterm_becomes_a_full_stop_after_a_grace_period():
    stop = Stop()
    with listening(stop, breaks_in=False, grace_s=0.01):
        signal.raise_signal(signal.SIGTERM)
        assert stop.level == 1
        deadline = time.monotonic() + 5
        while stop.level < 2 and time.monotonic() < deadline:
            signal.sigtimedwait([], 0.01)
    assert stop.level == 2


def test_outside_the_main_thread_signals_are_left_alone():
    stop = Stop()

    def work():
        with listening(stop, breaks_in=False):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert stop.level == 0


def test_scratch_folders_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    living = Scratch(tmp_path)
    dead = Scratch(tmp_path)
    (dead.path / "file").touch()
    os.close(dead._descriptor)  # What the system does when a process dies.
    third = Scratch(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([living.path, third.path])
    living.close()
    third.close()
    assert list(tmp_path.iterdir()) == []


def test_an_entry_without_timing_resources_uses_the_common_ones():
    entry = make_entry()
    assert entry.resources_for("timing") == entry.resources
