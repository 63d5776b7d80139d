"""`ssmbench status`: a run seen from another terminal, through its folder alone."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from ssmbench import console
from ssmbench.errors import DONE, SOME_FAILED
from ssmbench.execute.progress import duration
from ssmbench.execute.publish import Progress, RunningAttempt, read_progress
from ssmbench.store.lock import holder
from ssmbench.store.status import FailedSuite, Status, status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ssmbench.store.folder import RunFolder

EVERY_S = 2.0
# The ledger is read when the driver tells of a change, and this often anyway.
_LEDGER_EVERY_S = 30.0
_OLD_S = 60.0
_MAX_LISTED = 50
_MAX_ROWS = 16


def show_status(folder: RunFolder) -> Status:
    """Print the counts of a run, who drives it, what runs, and every failure with its log."""
    found = status(folder)
    console.result(counts(found))
    if found.driver is None:
        console.result("no driver is at work")
    else:
        console.result(f"driven by process {found.driver.pid} on {found.driver.host}")
        for line in running_lines(read_progress(folder), now_s=time.time()):
            console.result(f"  {line}")
    for failure in found.failures[:_MAX_LISTED]:
        console.result(_failure(folder, failure))
    if len(found.failures) > _MAX_LISTED:
        console.result(f"and {len(found.failures) - _MAX_LISTED} more failures")
    return found


def follow(folder: RunFolder, *, plain: bool, every_s: float = EVERY_S) -> int:
    """Show where a run stands until nobody drives it; Ctrl-C ends the watching alone.

    Args:
        folder: the run folder.
        plain: plain lines, also in a terminal.
        every_s: the pause between two looks.

    Returns:
        The exit code: 0 once all cells are done, 1 if some failed or are still to do.
    """
    found = show_status(folder)
    if found.driver is None:
        return _code(found)
    with contextlib.suppress(KeyboardInterrupt):
        with _region(folder, plain=plain) as show:
            for new in _news(folder, every_s):
                _show_new(folder, found, new)
                found = new
                show(counts(found))
        console.result(f"no driver is at work any more: {counts(found)}")
        return _code(found)
    return DONE


def _news(folder: RunFolder, every_s: float) -> Iterator[Status]:
    """Give the run's status whenever it may have changed, and once more at the driver's end."""
    seen, read_s = _ended(read_progress(folder)), time.monotonic()
    while holder(folder, now=time.time()) is not None:
        time.sleep(every_s)
        ended = _ended(read_progress(folder))
        if ended != seen or time.monotonic() - read_s > _LEDGER_EVERY_S:
            seen, read_s = ended, time.monotonic()
            yield status(folder)
    yield status(folder)


def _ended(progress: Progress | None) -> tuple[int, int, int] | None:
    """Count what changes the ledger."""
    if progress is None:
        return None
    return progress.n_cells_done, progress.n_failed, progress.n_retried


def _code(found: Status) -> int:
    return SOME_FAILED if found.n_failed or found.n_to_do else DONE


def _show_new(folder: RunFolder, before: Status, found: Status) -> None:
    told = set(before.failures)
    for failure in found.failures:
        if failure not in told:
            console.result(_failure(folder, failure))


@contextlib.contextmanager
def _region(folder: RunFolder, *, plain: bool) -> Iterator[Callable[[str], None]]:
    """Give what shows the counts: in a terminal above what runs, elsewhere when they change."""
    if not console.is_live(plain=plain):
        printed = [""]

        def show(text: str) -> None:
            if text != printed[0]:
                printed[0] = text
                console.result(text)

        yield show
        return
    from rich.live import Live
    from rich.text import Text

    def render() -> Text:
        lines = running_lines(read_progress(folder), now_s=time.time())
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    with Live(
        get_renderable=render,
        console=console.err(),
        refresh_per_second=1,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield lambda _: None


def running_lines(progress: Progress | None, *, now_s: float) -> Iterable[str]:
    """Write what runs, then the totals; `now_s` is Unix time."""
    if progress is None:
        return []
    shown = [attempt_line(attempt) for attempt in progress.running[:_MAX_ROWS]]
    hidden = len(progress.running) - _MAX_ROWS
    more = [f"and {hidden} more"] if hidden > 0 else []
    ago_s = now_s - progress.at_s
    old = [f"(that was {duration(ago_s)} ago)"] if ago_s > _OLD_S else []
    return [*shown, *more, totals(progress), *old]


def attempt_line(attempt: RunningAttempt) -> str:
    """Write a running attempt in one line."""
    step = f"{attempt.step} {attempt.done}/{attempt.total}" if attempt.total else attempt.step
    again = f"  attempt {attempt.number}" if attempt.number > 1 else ""
    return f"{attempt.cell_id}  {attempt.label}  {step}  {duration(attempt.seconds)}{again}"


def totals(progress: Progress) -> str:
    """Write a run's totals in one line."""
    parts = [
        f"{progress.n_cells_done} of {console.count(progress.n_cells, 'cell')} done",
        f"{console.count(len(progress.running), 'attempt')} running",
        f"{progress.n_waiting} waiting",
    ]
    if progress.n_failed:
        parts.append(f"{progress.n_failed} failed")
    if progress.n_retried:
        parts.append(f"{progress.n_retried} retried")
    if progress.stopping:
        parts.append("stopping")
    elif progress.left_s is not None:
        parts.append(f"about {duration(progress.left_s)} left")
    return " · ".join(parts)


def counts(found: Status) -> str:
    """Write a run's counts in one line."""
    n_cells = console.count(found.n_done + found.n_failed + found.n_to_do, "cell")
    suites = console.count(found.n_suites, "suite")
    attempts = console.count(found.n_attempts, "attempt")
    return (
        f"{n_cells} · {found.n_done} done · {found.n_failed} failed · {found.n_to_do} to do"
        f" · {suites} measured in {attempts}"
    )


def _failure(folder: RunFolder, failure: FailedSuite) -> str:
    log = f" → {folder.path / failure.log}" if failure.log else ""
    text = f"{failure.label}  {failure.suite}  {failure.error_class}: {failure.message}{log}"
    return f"✗ {failure.cell_id}  {text}"
