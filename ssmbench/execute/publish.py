"""Where a run stands, for other terminals: a display that also leaves its state in the folder.

Nothing depends on the file: it is replaced every few seconds, and a driver that died leaves an
old one, which whoever reads it sees from the lock.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ssmbench.execute.progress import time_left_s
from ssmbench.store import atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.execute.job import Job
    from ssmbench.execute.progress import Display, State
    from ssmbench.plan.cells import Suite
    from ssmbench.store.folder import RunFolder

EVERY_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningAttempt:
    """An attempt at work; `total` 0 means that its step does not tell how far it is."""

    cell_id: str
    label: str
    attempt_id: str
    number: int
    seconds: float
    step: str
    done: int
    total: int


@dataclass(frozen=True)
class Progress:
    """What runs at `at_s` (Unix time), as in `progress.State`."""

    at_s: float
    n_cells: int
    n_cells_done: int
    n_waiting: int
    n_failed: int
    n_retried: int
    stopping: bool
    left_s: float | None
    running: tuple[RunningAttempt, ...]


def progress_of(state: State) -> Progress:
    """Say the same as a display's state, in terms that another process understands."""
    running = []
    for found in state.running:
        cell, step = found.job.cell, found.step
        running.append(
            RunningAttempt(
                cell_id=cell.id,
                label=cell.label,
                attempt_id=found.job.attempt_id,
                number=found.job.number,
                seconds=state.now_s - found.started_s,
                step=step.name if step else "start",
                done=step.done if step else 0,
                total=step.total if step else 0,
            )
        )
    return Progress(
        at_s=time.time(),
        n_cells=state.n_cells,
        n_cells_done=state.n_cells_done,
        n_waiting=len(state.waiting_s),
        n_failed=state.n_failed,
        n_retried=state.n_retried,
        stopping=state.stopping,
        left_s=time_left_s(state),
        running=tuple(running),
    )


def read_progress(folder: RunFolder) -> Progress | None:
    """Read what a driver left last; None where there is nothing, or nothing that is readable."""
    try:
        found = json.loads(folder.progress_file.read_bytes())
        running = tuple(RunningAttempt(**attempt) for attempt in found.pop("running"))
        return Progress(**found, running=running)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        _log.warning("%s: is damaged and ignored (%s)", folder.progress_file, problem)
        return None


class Published:
    """A display that writes its state into the run folder and hands everything on."""

    def __init__(self, display: Display, folder: RunFolder, *, every_s: float = EVERY_S) -> None:
        """Wrap a display; `every_s` is the pause between two writes."""
        self._display, self._folder, self._every_s = display, folder, every_s
        self._written_s = float("-inf")
        self._stopping = False
        self._last: State | None = None
        self._timer: threading.Timer | None = None
        self._turn = threading.Lock()

    def show(self, state: State) -> None:
        """Show the state; write it now and then, and at once when a stop is asked for.

        Inline, an attempt may say nothing for minutes: what is not written now is written when
        the pause is over.
        """
        self._display.show(state)
        with self._turn:
            self._last = state
            left_s = self._written_s + self._every_s - time.monotonic()
            if left_s <= 0 or state.stopping != self._stopping:
                self._write(state)
            elif self._timer is None:
                self._timer = threading.Timer(left_s, self._late)
                self._timer.daemon = True
                self._timer.start()

    def _late(self) -> None:
        with self._turn:
            self._timer = None
            if self._last is not None:
                self._write(self._last)

    def _write(self, state: State) -> None:
        self._written_s, self._stopping, self._last = time.monotonic(), state.stopping, None
        text = json.dumps(asdict(progress_of(state))) + "\n"
        try:
            atomic.write_bytes(self._folder.progress_file, text.encode(), replace=True)
        except OSError as problem:
            # The ledger tells whether the folder can be written; this is for the eye only.
            _log.warning("%s: cannot be written: %s", self._folder.progress_file, problem)

    def attempt_done(self, job: Job, suites: Sequence[Suite], seconds: float) -> None:
        """Hand on."""
        self._display.attempt_done(job, suites, seconds)

    def attempt_failed(
        self, job: Job, suites: Sequence[Suite], error_class: str, message: str
    ) -> None:
        """Hand on."""
        self._display.attempt_failed(job, suites, error_class, message)

    def attempt_retried(self, job: Job, error_class: str, message: str, wait_s: float) -> None:
        """Hand on."""
        self._display.attempt_retried(job, error_class, message, wait_s)

    def note(self, text: str) -> None:
        """Hand on."""
        self._display.note(text)

    def close(self) -> None:
        """Write nothing more, and hand on."""
        with self._turn:
            self._last = None
            if self._timer is not None:
                self._timer.cancel()
        self._display.close()
