"""`ssmbench run`: lock the folder, adopt what a dead driver left, run the rest, sum up."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ssmbench import console
from ssmbench.errors import DONE, INTERRUPTED, SOME_FAILED, PrerequisiteError
from ssmbench.execute import environment
from ssmbench.execute.driver import Driver
from ssmbench.execute.inline import InlineExecutor
from ssmbench.execute.interrupts import Stop, listening
from ssmbench.execute.prepare import Prepared, Request, is_offline, prepare
from ssmbench.execute.progress import Display, LiveDisplay, PlainDisplay, duration
from ssmbench.execute.publish import Published
from ssmbench.execute.task import Lost, Settings, Summary, Task, tasks_of
from ssmbench.plan.decide import decide
from ssmbench.store.compact import compact
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import Ledger
from ssmbench.store.requests import StopRequests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ssmbench.execute.executor import Executor
    from ssmbench.plan.cells import Entry, Resources, Suite
    from ssmbench.plan.history import History

log = logging.getLogger(__name__)

_MAX_LISTED = 20


@dataclass(frozen=True)
class Ways:
    """How to run, none of which changes a number."""

    retry_failed: bool = False
    steal_lock: bool = False
    plain: bool = False


def run(request: Request, ways: Ways) -> int:
    """Run a grid, or what is left of it, and give the exit code.

    Raises:
        SsmbenchError: before anything ran: the grid, the command or the machine is wrong.
    """
    prepared = prepare(request)
    folder = RunFolder.create(
        prepared.out, grid_text=prepared.file.text, resolved=prepared.file.resolved
    )
    stop = Stop()
    # To the last line: a Ctrl-C while Ray is being left must break into nothing.
    with (
        Ledger.open(folder, steal=ways.steal_lock) as ledger,
        listening(stop, breaks_in=request.inline),
    ):
        requests = StopRequests(folder)
        n_adopted = len(ledger.adopt())
        tasks = _tasks(prepared.entries, ledger.history, retry_failed=ways.retry_failed)
        _greet(prepared, ledger.history, n_adopted=n_adopted)
        summary = Summary()
        with ledger.batch():
            for entry in prepared.entries:
                ledger.cell(entry.cell, _wanted(entry, ledger.history, keep=bool(request.only)))
        if tasks:
            _record(ledger, prepared, request)
            summary = _drive(
                tasks, ledger, prepared, request, stop=stop, requests=requests, plain=ways.plain
            )
            compact(folder)
        code = _sum_up(summary, prepared, request, ledger.history, stopped=stop.level > 0)
    if summary.left_behind:
        # Leaving a local Ray in order while its attempts run takes seconds, and now and then
        # its threads end this process with a status of their own. It dies with this process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _tasks(entries: Sequence[Entry], history: History, *, retry_failed: bool) -> list[Task]:
    """Give what is to do, the longest first; what failed for good only if asked for."""
    tasks: list[Task] = []
    for decision in decide(entries, history):
        cell = decision.entry.cell
        suites = [
            suite
            for suite in decision.suites_to_do
            if retry_failed or (cell.id, suite.id) not in history.failed
        ]
        tasks += tasks_of(
            decision.entry,
            suites,
            seconds=decision.seconds,
            attempts_before=history.attempts.get(cell.id, 0),
        )
    return tasks


def _greet(prepared: Prepared, history: History, *, n_adopted: int) -> None:
    """Say how much there is, how much of it is done, and where."""
    counts = _counts(prepared.entries, history)
    parts = [console.count(len(prepared.entries), "cell"), f"{counts['done']} done before"]
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed before (--retry-failed tries them again)")
    parts.append(f"{counts['to do']} to run")
    n_done, n_all = _suites_done(prepared.entries, history)
    if n_done and counts["to do"]:
        parts.append(f"{n_done} of {n_all} suites measured")
    console.note(f"{' · '.join(parts)}    {prepared.out}")
    if n_adopted:
        console.note(f"taken over from an interrupted run: {console.count(n_adopted, 'suite')}")


def _counts(entries: Iterable[Entry], history: History) -> Counter[str]:
    """Count cells by state: done, failed, to do."""
    counts: Counter[str] = Counter()
    for entry in entries:
        keys = [(entry.cell.id, suite.id) for suite in entry.suites]
        if all(key in history.committed for key in keys):
            counts["done"] += 1
        elif any(key in history.failed for key in keys):
            counts["failed"] += 1
        else:
            counts["to do"] += 1
    return counts


def _suites_done(entries: Sequence[Entry], history: History) -> tuple[int, int]:
    """Count (cell, suite) pairs: those with numbers, and all."""
    keys = [(entry.cell.id, suite.id) for entry in entries for suite in entry.suites]
    return sum(key in history.committed for key in keys), len(keys)


def _record(ledger: Ledger, prepared: Prepared, request: Request) -> None:
    """Note in the ledger who runs what."""
    commit, dirty = environment.git_state()
    ledger.append(
        {
            "event": "run",
            "command": request.command(),
            "grid_sha256": hashlib.sha256(prepared.file.text.encode()).hexdigest(),
            "git_commit": commit,
            "git_dirty": dirty,
            "versions": environment.versions(),
        }
    )


def _wanted(entry: Entry, history: History, *, keep: bool) -> list[Suite]:
    """Give the suites wanted of a cell; a filtered run does not withdraw earlier wishes."""
    from ssmbench.plan.cells import Suite

    suites = {suite.id: suite for suite in entry.suites}
    if keep:
        for suite_id in history.wanted.get(entry.cell.id, ()):
            suites.setdefault(suite_id, Suite.from_json(history.suites[suite_id]))
    return list(suites.values())


def _drive(
    tasks: list[Task],
    ledger: Ledger,
    prepared: Prepared,
    request: Request,
    *,
    stop: Stop,
    requests: StopRequests,
    plain: bool,
) -> Summary:
    """Start an executor, run the tasks on it, and end it."""
    data = str(request.data.absolute()) if request.data else None
    settings = Settings(data=data, offline=is_offline(prepared, request.data))
    executor = _executor(tasks, prepared, request, settings)
    summary = Summary()
    try:
        _check(executor, {task.resources for task in tasks})
        display = _display(prepared, ledger.folder, plain=plain)
        try:
            driver = Driver(
                tasks,
                executor=executor,
                ledger=ledger,
                display=display,
                settings=settings,
                stop=stop,
                requests=requests.level,
            )
            if isinstance(executor, InlineExecutor):
                executor.on_step = partial(_inline_step, driver, stop)
            summary = driver.run()
        finally:
            display.close()
        summary.left_behind = stop.level >= 2 and executor.dies_with_driver
    finally:
        if not summary.left_behind:
            executor.close()
    return summary


def _inline_step(driver: Driver, stop: Stop) -> None:
    """Let the driver look around while an attempt runs in its place, and break in if asked."""
    driver.tick()
    if stop.level >= 2:
        raise KeyboardInterrupt


def _executor(
    tasks: Sequence[Task], prepared: Prepared, request: Request, settings: Settings
) -> Executor:
    if request.inline:
        return InlineExecutor()
    from ssmbench.execute.ray import RayExecutor

    if request.address is None:
        console.note("starting Ray on this machine …")
    cpus = Counter(task.resources.num_cpus for task in tasks)
    return RayExecutor(
        address=request.address,
        num_cpus=cpus.most_common(1)[0][0],
        isolate=prepared.file.grid.isolate,
        data=settings.data,
        offline=settings.offline,
    )


def _check(executor: Executor, wanted: Iterable[Resources]) -> None:
    """Refuse what no machine can give, before anything is submitted."""
    problems = [problem for r in wanted if (problem := executor.check(r)) is not None]
    if problems:
        listed = "\n".join(f"resources: {problem}" for problem in problems)
        raise PrerequisiteError(f"{listed}\nNothing was run. Change `resources:` in the grid.")


def _display(prepared: Prepared, folder: RunFolder, *, plain: bool) -> Display:
    name = str(prepared.out)
    live = console.is_live(plain=plain)
    display = LiveDisplay(folder=name) if live else PlainDisplay(folder=name)
    return Published(display, folder)


def _sum_up(
    summary: Summary, prepared: Prepared, request: Request, history: History, *, stopped: bool
) -> int:
    """Print how the run ended and what to type next; give the exit code."""
    counts = _counts(prepared.entries, history)
    parts = [f"{counts['done']} done"]
    parts += [f"{counts[state]} {state}" for state in ("failed", "to do") if counts[state]]
    n_done, n_all = _suites_done(prepared.entries, history)
    if n_done < n_all:
        parts.append(f"{n_done} of {n_all} suites measured")
    if summary.n_retried:
        parts.append(f"{summary.n_retried} retried")
    if summary.seconds:
        parts.append(duration(summary.seconds))
    console.note(" · ".join(parts))
    for lost in summary.lost[:_MAX_LISTED]:
        _list_failure(lost, prepared, request)
    if len(summary.lost) > _MAX_LISTED:
        rest = len(summary.lost) - _MAX_LISTED
        console.note(f"and {console.count(rest, 'more failure')}: ssmbench status {prepared.out}")
    if summary.stopped is not None:
        console.warn(summary.stopped)
    if (stopped or summary.stopped is not None) and counts["to do"]:
        console.note(f"stopped; continue with\n  {request.command()}")
        return INTERRUPTED if stopped else SOME_FAILED
    if counts["done"]:
        console.note(f"tables: ssmbench report {prepared.out}")
    return SOME_FAILED if counts["failed"] or counts["to do"] else DONE


def _list_failure(lost: Lost, prepared: Prepared, request: Request) -> None:
    cell = lost.entry.cell
    names = ", ".join(suite.name for suite in lost.suites)
    console.failed(f"cell {cell.id} ({cell.label}) {names}: {lost.error_class}: {lost.message}")
    console.note(f"    log    {prepared.out / lost.log}")
    console.note(f"    again  {request.command(only=cell.id, retry_failed=True)}")
