"""What a running attempt says of itself, from the attempt to the person who watches."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

import pytest
from execute_helpers import make_entry, succeed
from rich.console import Console
from store_helpers import make_cell

from ssmbench import console
from ssmbench.execute import progress, worker
from ssmbench.execute.executor import Demand, Step
from ssmbench.execute.inline import InlineExecutor
from ssmbench.execute.job import Job
from ssmbench.execute.progress import Running, State
from ssmbench.plan.cells import Resources

if TYPE_CHECKING:
    from pathlib import Path

NOTE = "loss 0.123 · 1.2 k tokens/s · 3 min left"
STEP = Step("fine-tune", 120, 400, NOTE)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    entry = make_entry(make_cell(model="zoo-phi-mamba", method="state"))
    return Job(
        folder=str(tmp_path),
        cell=entry.cell,
        suites=entry.suites,
        attempt_id="a1",
        number=1,
        log="logs/a1.log",
        data=None,
        device="cpu",
        batch_tokens=512,
        num_cpus=1,
        offline=True,
        capture=True,
    )


def drawn(job: Job, monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    terminal = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "err", lambda: terminal)
    display = progress.LiveDisplay(folder="runs/x", clock=lambda: 12.0)
    running = (
        Running(job, None, 4.0, STEP),
        Running(job, None, 4.0, Step("perplexity", 24, 100)),
    )
    display.show(State(now_s=12.0, n_cells=2, running=running))
    with terminal.capture() as captured:
        terminal.print(display._render())
    display.close()
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_terminal_of_any_width_shows_the_note_whole_and_once(job, monkeypatch, width):
    lines = drawn(job, monkeypatch, width)
    (line,) = (line for line in lines if NOTE in line)
    assert job.cell.label in line
    assert max(map(len, lines)) <= width
    assert ("120/400" in line) == (width == 200)
    assert any("120/400" in line for line in lines)


def test_a_step_without_a_note_shows_its_rate(job, monkeypatch):
    terminal = Console(file=io.StringIO(), width=150, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "err", lambda: terminal)
    display = progress.LiveDisplay(folder="runs/x", clock=lambda: 12.0)
    for now_s, done in ((10.0, 20), (12.0, 60)):
        running = (Running(job, None, 4.0, Step("perplexity", done, 100)),)
        display.show(State(now_s=now_s, n_cells=2, running=running))
    with terminal.capture() as captured:
        terminal.print(display._render())
    display.close()
    assert "60/100  20/s 2.0 s left" in captured.get()


def test_a_plain_line_tells_the_note():
    assert progress.told(STEP) == f"fine-tune 120/400 · {NOTE}"
    assert progress.told(Step("perplexity", 24, 100)) == "perplexity 24/100"
    assert progress.told(Step("load", 0, 0)) == "load"


def test_inline_the_note_is_there_at_once(job):
    seen: list[Step] = []
    executor = InlineExecutor(target="test_live_note:trains")
    executor.on_step = lambda: seen.extend(sign.step for sign in executor.signs().values())
    executor.submit(job, Demand(Resources()))
    executor.poll(0)
    assert seen == [Step("load", 0, 0), STEP]


class Remote:
    """Stands for the board as Ray gives it: `board.put.remote(…)`."""

    def __init__(self) -> None:
        self.board = worker.Board()
        self.seen: list[Any] = []
        self.put = self

    def remote(self, attempt_id: str, node: str, step: Any) -> None:
        self.seen.append(step)
        self.board.put(attempt_id, node, step)


def test_a_worker_tells_the_board_the_note(job):
    remote = Remote()
    voice = worker._Voice(remote, job.attempt_id, "node")
    voice._told_s = 0.0
    trains(job, voice.report)
    voice.tell()
    assert remote.seen[-1] == STEP
    assert remote.board.snapshot()[job.attempt_id].step == STEP


def test_a_worker_tells_the_board_a_few_times_a_second_however_often_it_hears():
    remote = Remote()
    voice = worker._Voice(remote, "a1", "node")
    started_s = time.monotonic()
    while time.monotonic() - started_s < 3 * worker._REPORT_EVERY_S:
        voice.report("fine-tune", len(remote.seen), 400, NOTE)
    passed_s = time.monotonic() - started_s
    assert 1 <= len(remote.seen) <= 1 + passed_s / worker._REPORT_EVERY_S


def trains(job: Job, report: Any) -> dict[str, Any]:
    report("load", 0, 0)
    report("fine-tune", 120, 400, NOTE)
    return succeed(job)
