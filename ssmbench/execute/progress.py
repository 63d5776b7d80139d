"""What a person sees while a grid runs: a live display, or plain lines where there is no terminal.

Both print a line for each attempt that ended; the live one also shows what runs now. Only
`console.py` writes to the terminal.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ssmbench import console
from ssmbench.execute.executor import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from ssmbench.execute.job import Job
    from ssmbench.plan.cells import Suite

_MAX_ROWS = 16
_LINE_EVERY_S = 60.0
_MAX_TOLD = 8  # Running attempts in each sign of life: a cluster has hundreds.
_REFRESH_PER_S = 4
_ANY_WIDTH = 1000  # Wider than any terminal: to measure what something would take.


class Running(NamedTuple):
    """An attempt at work: since when (the driver's clock), the plan's estimate, its last step."""

    job: Job
    estimate_s: float | None
    started_s: float
    step: Step | None


class State(NamedTuple):
    """Where a run stands at `now_s` of the driver's clock.

    Cells are those that this run works on; everything else counts attempts. `waiting_s` has
    the estimate of each attempt that has not begun; `finished_s` and `finished_estimate_s` are
    sums over the attempts that ended and had an estimate.
    """

    now_s: float
    n_cells: int = 0
    n_cells_done: int = 0
    running: tuple[Running, ...] = ()
    waiting_s: tuple[float | None, ...] = ()
    n_finished: int = 0
    n_failed: int = 0
    n_retried: int = 0
    finished_s: float = 0.0
    finished_estimate_s: float = 0.0
    n_slots: int = 1
    stopping: bool = False


class Display(Protocol):
    """Shows a run to a person; the driver calls it, it never calls back."""

    def show(self, state: State) -> None:
        """Take in where the run stands; called several times a second."""

    def attempt_done(self, job: Job, suites: Sequence[Suite], seconds: float) -> None:
        """Say that an attempt brought the numbers of these suites."""

    def attempt_failed(
        self, job: Job, suites: Sequence[Suite], error_class: str, message: str
    ) -> None:
        """Say that these suites failed for good."""

    def attempt_retried(self, job: Job, error_class: str, message: str, wait_s: float) -> None:
        """Say that an attempt failed and another follows after a pause."""

    def note(self, text: str) -> None:
        """Say something else."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def time_left_s(state: State) -> float | None:
    """Estimate the run's remaining seconds; None while nothing is known.

    The plan's estimates are scaled by how the finished attempts compare with theirs; an
    attempt without an estimate counts as the mean of the finished ones.
    """
    scale = state.finished_s / state.finished_estimate_s if state.finished_estimate_s else 1.0
    mean_s = state.finished_s / state.n_finished if state.n_finished else None

    def expected(estimate_s: float | None) -> float | None:
        return mean_s if estimate_s is None else estimate_s * scale

    waiting = [expected(e) for e in state.waiting_s]
    running = [(expected(r.estimate_s), state.now_s - r.started_s) for r in state.running]
    if any(e is None for e in waiting) or any(e is None for e, _ in running):
        return None
    rest = [max(0.0, e - spent) for e, spent in running if e is not None]
    total = sum(rest) + sum(e for e in waiting if e is not None)
    return max([total / state.n_slots, *rest])


def duration(seconds: float) -> str:
    """Write a duration for people: `3.1 s`, `2 min 5 s`, `1 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def told(step: Step) -> str:
    """Write a step for a plain line: `perplexity 24/100`, `fine-tune 50/400 · loss 0.21 · …`."""
    counted = f"{step.name} {step.done}/{step.total}" if step.total else step.name
    return f"{counted} · {step.note}" if step.note else counted


class PlainDisplay:
    """One line for each attempt that ended, and a sign of life each minute."""

    def __init__(self, *, folder: str) -> None:
        """Start; `folder` is the run folder as the user would type it, for log paths."""
        self._folder = folder
        self._told_s: float | None = None
        self._stopping = False

    def show(self, state: State) -> None:
        """Say where the run stands, once a minute, and that it stops."""
        if self._told_s is None:
            self._told_s = state.now_s
        if state.stopping and not self._stopping:
            self._stopping = True
            console.note(f"  {summary_line(state)}")
        if state.now_s - self._told_s >= _LINE_EVERY_S:
            self._told_s = state.now_s
            console.note(f"  {summary_line(state)}")
            for running in state.running[:_MAX_TOLD]:
                if running.step is not None:
                    console.note(f"    {running.job.cell.label}  {told(running.step)}")

    def attempt_done(self, job: Job, suites: Sequence[Suite], seconds: float) -> None:
        """Print a ✓ line."""
        names = ", ".join(s.name for s in suites)
        console.done(f"{job.cell.label}  {names}  {duration(seconds)}")

    def attempt_failed(
        self, job: Job, suites: Sequence[Suite], error_class: str, message: str
    ) -> None:
        """Print a ✗ line with the log's path."""
        names = ", ".join(s.name for s in suites)
        log = f"{self._folder}/{job.log}"
        console.failed(f"{job.cell.label}  {names}  {error_class}: {message} → {log}")

    def attempt_retried(self, job: Job, error_class: str, message: str, wait_s: float) -> None:
        """Print a line about the retry."""
        pause = f" in {duration(wait_s)}" if wait_s else ""
        log = f"{self._folder}/{job.log}"
        text = f"{job.cell.label}  {error_class}: {message}; tried again{pause} → {log}"
        console.warn(text)

    def note(self, text: str) -> None:
        """Print a line."""
        console.note(text)

    def close(self) -> None:
        """Nothing to put back."""


class LiveDisplay(PlainDisplay):
    """The plain lines above a region that shows what runs now."""

    def __init__(self, *, folder: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Take over the lower part of the terminal until `close`."""
        from rich.live import Live

        super().__init__(folder=folder)
        self._clock = clock
        self._state = State(now_s=clock())
        self._began: dict[tuple[str, str], tuple[float, int]] = {}
        self._live = Live(
            get_renderable=self._render,
            console=console.err(),
            refresh_per_second=_REFRESH_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def show(self, state: State) -> None:
        """Keep the state; a thread of the display draws it."""
        for running in state.running:
            if running.step is not None:
                key = (running.job.attempt_id, running.step.name)
                self._began.setdefault(key, (state.now_s, running.step.done))
        self._state = state

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        state = self._state._replace(now_s=self._clock())
        shown = state.running[:_MAX_ROWS]
        table = self._table(shown, state.now_s, notes=True)
        below = []
        terminal = console.err()
        wanted = terminal.measure(table, options=terminal.options.update(width=_ANY_WIDTH)).maximum
        if wanted > terminal.width:
            # Too narrow for what attempts say of themselves: that goes into lines of its own.
            table = self._table(shown, state.now_s, notes=False)
            told = [(r.job.cell.label, r.step.note) for r in shown if r.step and r.step.note]
            below = [
                Text(f"{note}  {label}", style="dim", no_wrap=True, overflow="ellipsis")
                for label, note in told
            ]
        hidden = len(state.running) - _MAX_ROWS
        more = [Text(f"and {hidden} more", style="dim")] if hidden > 0 else []
        ended = state.n_finished + state.n_failed
        total = ProgressBar(
            total=max(1, ended + len(state.running) + len(state.waiting_s)),
            completed=ended,
            width=20,
        )
        bottom = Table.grid(padding=(0, 2))
        bottom.add_row(total, Text(summary_line(state), style="bold"))
        return Group(table, *below, *more, bottom)

    def _table(self, shown: Sequence[Running], now_s: float, *, notes: bool) -> Table:
        """Make a line for each running attempt."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for running in shown:
            step = running.step or Step("start", 0, 0)
            known = step.total > 0
            bar = ProgressBar(
                total=step.total if known else 100,
                completed=step.done if known else 0,
                width=20,
                pulse=not known,
            )
            began = self._began.get((running.job.attempt_id, step.name))
            told = pace(step, began, now_s)
            if step.note:
                told = step.note if notes else ""
            table.add_row(
                Text(running.job.cell.label, no_wrap=True, overflow="ellipsis"),
                Text(step.name, style="cyan"),
                bar,
                Text(f"{step.done}/{step.total}" if known else ""),
                Text(told, no_wrap=True, overflow="ellipsis"),
                Text(duration(now_s - running.started_s), style="dim"),
            )
        return table


def pace(step: Step, began: tuple[float, int] | None, now_s: float) -> str:
    """Write a step's rate and time left, from when it was first seen and at what count."""
    if began is None or step.total <= 0 or step.done <= began[1] or now_s <= began[0]:
        return ""
    rate = (step.done - began[1]) / (now_s - began[0])
    shown = f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 0.1 else ""
    return f"{shown} {duration((step.total - step.done) / rate)} left".strip()


def summary_line(state: State) -> str:
    """Write the run's totals in one line."""
    parts = [
        f"{state.n_cells_done} of {console.count(state.n_cells, 'cell')} done",
        f"{console.count(len(state.running), 'attempt')} running",
        f"{len(state.waiting_s)} waiting",
    ]
    if state.n_failed:
        parts.append(f"{state.n_failed} failed")
    if state.n_retried:
        parts.append(f"{state.n_retried} retried")
    left_s = time_left_s(state)
    if state.stopping:
        parts.append("stopping: waiting for what runs; Ctrl-C again ends it at once")
    elif left_s is not None:
        parts.append(f"about {duration(left_s)} left")
    return " · ".join(parts)
