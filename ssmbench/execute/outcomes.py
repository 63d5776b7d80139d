"""The record of how an attempt ended: its own, or that of a process that died before it could."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError
from ssmbench.execute import environment
from ssmbench.store import attempts
from ssmbench.store.folder import RunFolder

if TYPE_CHECKING:
    from ssmbench.execute.job import Job, SuiteFailure

log = logging.getLogger(__name__)


def outcome_of(
    job: Job, *, done: list[str], failures: list[SuiteFailure], started_s: float
) -> dict[str, Any]:
    """Put together the record of an attempt that ends now.

    Args:
        job: what was asked.
        done: ids of the suites that are whole on disk.
        failures: why the others are not.
        started_s: when it began, unix time.
    """
    first = failures[0] if failures else None
    device = environment.device_name(
        num_cpus=job.num_cpus, num_gpus=1 if job.device != "cpu" else 0
    )
    return {
        **environment.describe(),
        "attempt_id": job.attempt_id,
        "cell_id": job.cell.id,
        "number": job.number,
        "status": "failed" if failures else "done",
        "error_class": first.error_class if first else None,
        "message": first.message if first else None,
        "device": device,
        "started_s": started_s,
        "ended_s": time.time(),
        "log": job.log,
        "seeds": {"cell": job.cell.seed},
        "threads": environment.n_threads(job.num_cpus),
        "batch_tokens": job.batch_tokens,
        "suites": [s.id for s in job.suites],
        "done": done,
        "failures": [f._asdict() for f in failures],
    }


def record_death(
    job: Job, failures: list[SuiteFailure], *, took_s: float, host: str | None = None
) -> None:
    """Write the outcome of an attempt whose process died before it could.

    Args:
        job: what was asked.
        failures: what the process left undone.
        took_s: how long it lived, as the driver saw it.
        host: the machine that it ran on, where known.
    """
    missing = {suite for failure in failures for suite in failure.suites}
    done = [suite.id for suite in job.suites if suite.id not in missing]
    outcome = outcome_of(job, done=done, failures=failures, started_s=time.time() - took_s)
    # The driver's own machine is not where the attempt ran.
    unknown = {"host": host, "pid": None, "cpu": None, "gpu": None, "device": None}
    try:
        attempts.write_outcome(RunFolder.at(job.folder), {**outcome, **unknown})
    except (StoreError, OSError) as error:
        # It had written one and died on the way home, or the disk is full: the ledger knows.
        log.info("no outcome was written for a dead attempt: %s", error)
