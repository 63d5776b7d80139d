"""`ssmbench logs`: what an attempt printed, also while it runs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench import console
from ssmbench.errors import DONE, CommandError, suggest
from ssmbench.store.contents import read_contents
from ssmbench.store.lock import holder

if TYPE_CHECKING:
    from ssmbench.store.address import Place
    from ssmbench.store.contents import Contents
    from ssmbench.store.folder import RunFolder

EVERY_S = 1.0


class Log(NamedTuple):
    """One attempt's log; `ended` says how the attempt ended, None while it may run."""

    path: Place
    attempt_id: str
    ended: str | None


def show_logs(
    folder: RunFolder, cell: str, *, attempt: int | None, follow: bool, every_s: float = EVERY_S
) -> int:
    """Print the log of a cell's last attempt, or of the one asked for.

    Args:
        folder: the run folder.
        cell: a cell's id, or the beginning of one.
        attempt: which attempt, counted from 1 in the order in which they began; the last if None.
        follow: go on printing until the attempt has ended.
        every_s: the pause between two looks.

    Raises:
        CommandError: there is no such cell or attempt.
        StoreError: the ledger is damaged.
    """
    contents = read_contents(folder)
    cell_id = find_cell(contents, cell)
    logs = find_logs(folder, contents, cell_id)
    while not logs and follow and holder(folder, now=time.time()) is not None:
        time.sleep(every_s)
        logs = find_logs(folder, contents, cell_id)
    if not logs:
        raise CommandError(f"cell {cell_id}: no attempt has begun yet.")
    number = len(logs) if attempt is None else attempt
    if not 1 <= number <= len(logs):
        found = console.count(len(logs), "attempt")
        raise CommandError(f"--attempt {number}: found {found} of cell {cell_id}.")
    log = logs[number - 1]
    _tell(log, number, len(logs))
    with contextlib.suppress(KeyboardInterrupt):
        _print(folder, cell_id, log, follow=follow, every_s=every_s)
    return DONE


def find_cell(contents: Contents, text: str) -> str:
    """Give the one cell whose id is or begins with `text`.

    Raises:
        CommandError: there is none, or there are several.
    """
    known = contents.history.cells
    if text in known:
        return text
    found = [cell_id for cell_id in known if cell_id.startswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        near = suggest(text, known) if len(known) <= 20 else " See `ssmbench sql RUN"
        near = near if len(known) <= 20 else f'{near} "select cell_id, model, method from cells"`.'
        raise CommandError(f"no cell of this run is called '{text}'.{near}")
    some = ", ".join(found[:5])
    raise CommandError(f"'{text}' begins the ids of {len(found)} cells: {some}. Give more of it.")


def find_logs(folder: RunFolder, contents: Contents, cell_id: str) -> list[Log]:
    """List a cell's logs in the order in which its attempts began."""
    where = folder.log_file(cell_id, "any").parent
    if not where.is_dir():
        return []
    found = []
    for path in where.iterdir():
        attempt_id, _, ending = path.name.rpartition(".")
        if ending == "log":
            outcome = _outcome(folder, cell_id, attempt_id)
            log = Log(path, attempt_id, _ended(contents, attempt_id, outcome))
            # One that left no outcome runs, or its driver died: it is the last, or among them.
            started_s = outcome.get("started_s")
            found.append((float("inf") if started_s is None else started_s, attempt_id, log))
    return [log for _, _, log in sorted(found)]


def _outcome(folder: RunFolder, cell_id: str, attempt_id: str) -> dict[str, Any]:
    """Read how an attempt ended; nothing where it left nothing that can be read."""
    try:
        found: dict[str, Any] = json.loads(folder.outcome_file(cell_id, attempt_id).read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _ended(contents: Contents, attempt_id: str, outcome: dict[str, Any]) -> str | None:
    failed = [f for f in contents.failures if f["attempt"] == attempt_id]
    if failed:
        return f"{failed[-1]['error_class']}: {failed[-1]['message']}"
    status = outcome.get("status")
    return str(status) if status else None


def _tell(log: Log, number: int, n: int) -> None:
    ended = f" · {log.ended}" if log.ended else ""
    others = " · --attempt N shows another" if n > 1 else ""
    console.note(f"attempt {number} of {n}{ended}{others}    {log.path}")


def _print(folder: RunFolder, cell_id: str, log: Log, *, follow: bool, every_s: float) -> None:
    """Copy the log to stdout, and what comes to it until the attempt ends."""
    offset = 0
    while True:
        # Before reading: what is written until then is still printed.
        over = not follow or bool(_outcome(folder, cell_id, log.attempt_id))
        over = over or holder(folder, now=time.time()) is None
        data = log.path.read_bytes()[offset:]
        offset += len(data)
        sys.stdout.write(data.decode("utf-8", "replace"))
        sys.stdout.flush()
        if over:
            return
        time.sleep(every_s)
