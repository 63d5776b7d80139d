"""`ssmbench cancel`: ask whoever drives a run to stop, as Ctrl-C would in its own terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ssmbench import console
from ssmbench.errors import DONE, CommandError
from ssmbench.execute.publish import read_progress
from ssmbench.store.lock import holder
from ssmbench.store.requests import ask_to_stop

if TYPE_CHECKING:
    from ssmbench.store.folder import RunFolder

_POLL_S = 0.25


def cancel(folder: RunFolder, *, at_once: bool, wait_s: float = 15.0) -> int:
    """Ask the driver of a run to stop and see that it does.

    Args:
        folder: the run folder.
        at_once: end what runs; else it may finish.
        wait_s: how long to wait for the driver's answer.

    Raises:
        CommandError: nobody drives the run.
        StoreError: the folder cannot be written.
    """
    driver = holder(folder, now=time.time())
    if driver is None:
        raise CommandError(f"{folder.path}: nobody drives it, so there is nothing to cancel.")
    ask_to_stop(folder, 2 if at_once else 1)
    who = f"process {driver.pid} on {driver.host}"
    what = "end what runs" if at_once else "start nothing new; what runs may finish (--now ends it)"
    console.note(f"asked {who} to {what}")
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        found = holder(folder, now=time.time())
        if found is None or found.uuid != driver.uuid:
            console.result("stopped; the same `ssmbench run` or `submit` continues")
            return DONE
        progress = read_progress(folder)
        if progress is not None and progress.stopping and not at_once:
            running = console.count(len(progress.running), "attempt")
            console.result(f"stopping: {running} may finish")
            return DONE
        time.sleep(_POLL_S)
    console.result(f"{who} has not answered yet; see `ssmbench status {folder.path}`")
    return DONE
