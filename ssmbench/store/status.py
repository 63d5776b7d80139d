"""Where a run stands, as data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssmbench.plan.cells import Cell
from ssmbench.store.contents import read_contents
from ssmbench.store.derive import cells_frame
from ssmbench.store.lock import Holder, holder

if TYPE_CHECKING:
    from ssmbench.store.folder import RunFolder


@dataclass(frozen=True)
class FailedSuite:
    """A suite that ended without numbers. `log` is relative to the run folder, or None."""

    cell_id: str
    label: str
    suite: str
    error_class: str
    message: str
    log: str | None


@dataclass(frozen=True)
class Status:
    """Counts of a run.

    Attributes:
        n_done: cells with every wanted suite committed.
        n_failed: cells with a suite that failed for good.
        n_to_do: the others.
        n_suites: committed suites.
        n_attempts: attempts that the ledger has seen end.
        failures: one for each failed (cell, suite), in the order of failing.
        driver: who is driving at this moment, or None.
    """

    n_done: int
    n_failed: int
    n_to_do: int
    n_suites: int
    n_attempts: int
    failures: tuple[FailedSuite, ...]
    driver: Holder | None


def status(folder: RunFolder) -> Status:
    """Summarise a run folder; safe while a driver writes.

    Raises:
        StoreError: the ledger is damaged.
    """
    contents = read_contents(folder)
    history = contents.history
    states = cells_frame(contents)["status"].to_list()
    failures = []
    for (cell_id, suite_id), failure in history.failed.items():
        wanted = history.wanted.get(cell_id)
        if wanted is not None and suite_id not in wanted:
            continue
        cell = history.cells.get(cell_id)
        label = Cell.from_json(cell).label if cell else cell_id
        suite = history.suites.get(suite_id, {}).get("name", suite_id)
        failures.append(FailedSuite(cell_id, label, suite, *failure))
    return Status(
        n_done=states.count("done"),
        n_failed=states.count("failed"),
        n_to_do=states.count("to do"),
        n_suites=len(contents.commits),
        n_attempts=sum(history.attempts.values()),
        failures=tuple(failures),
        driver=holder(folder, now=time.time()),
    )
