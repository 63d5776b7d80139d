"""One attempt in one process: load, compress, measure; it ends as a value, never as an exception.

Each finished suite is written at once, so a retry does the rest only; the outcome is written
last. Random numbers start anew before each step, so a suite's numbers do not depend on which
suites ran before it.
"""

from __future__ import annotations

import gc
import logging
import shutil
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmbench import plugins
from ssmbench.errors import StoreError
from ssmbench.execute import isolation, outcomes, policy
from ssmbench.execute.job import Job, Report, SuiteFailure
from ssmbench.execute.share import Shared
from ssmbench.kernels import backends
from ssmbench.store import attempts
from ssmbench.store.columns import SUITE_TABLES
from ssmbench.store.folder import RunFolder
from ssmbench.suites import _peak

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ssmbench.models.decoder import Decoder
    from ssmbench.plan.cells import Suite
    from ssmbench.suites._context import Training

log = logging.getLogger(__name__)

# After these the next suite of the attempt has neither memory nor time.
_ENDS_ATTEMPT = frozenset({"gpu_oom", "host_oom", "timeout"})


def run_attempt(job: Job, report: Report) -> dict[str, Any]:
    """Run a job's attempt and give its outcome, as written to the run folder.

    Only KeyboardInterrupt passes through: the user's, inline, or Ray's cancellation.

    Args:
        job: what to do.
        report: called as the work goes on.
    """
    started_s = time.time()
    done: list[str] = []
    failures: list[SuiteFailure] = []
    told: dict[str, int | str | None] = {}
    computed = backends.Record()
    try:
        with isolation.surroundings(job), backends.recording(computed):
            log.info("%s, attempt %d (%s)", job.cell.label, job.number, job.attempt_id)
            try:
                with isolation.kernels(job):
                    _work(job, report, done, failures)
            except Exception as error:  # noqa: BLE001 - whatever it is becomes the outcome
                _note(error, _missing(job, done, failures), failures)
            told = {**_memory(job.device), "compute_dtype": _compute_dtype(job)}
            _release(job.device)
    except Exception as error:  # noqa: BLE001 - no log file, say, on a full disk
        _note(error, _missing(job, done, failures), failures)
    outcome = outcomes.outcome_of(job, done=done, failures=failures, started_s=started_s)
    outcome |= {**told, "backend": computed.text}
    try:
        attempts.write_outcome(RunFolder.at(job.folder), outcome)
    except (OSError, StoreError) as error:
        # The driver hears of it all the same; only the table of attempts is poorer.
        log.warning("the outcome could not be written: %s", error)
    return outcome


def _work(job: Job, report: Report, done: list[str], failures: list[SuiteFailure]) -> None:
    """Build the model and measure every suite, filling `done` and `failures` in place."""
    from ssmbench.models.tokenizer import load_tokenizer

    report("load", 0, 0)
    model = _dense(job)
    data = Path(job.data) if job.data else None
    tokenizer = load_tokenizer(_tokenizer_of(job), data=data)
    facts, training = _make(job, model, tokenizer, report)
    for index, suite in enumerate(job.suites):
        report(suite.name, 0, 0)
        started_s = time.monotonic()
        try:
            with backends.recording() as computed:
                rows = _measure(job, suite, model, tokenizer, training, report)
            attempts.write_suite(
                RunFolder.at(job.folder),
                cell_id=job.cell.id,
                attempt_id=job.attempt_id,
                suite=suite,
                result_rows=rows,
                facts=facts,
                seconds=time.monotonic() - started_s,
                backend=computed.text,
                compute_dtype=_compute_dtype(job),
            )
            log.info("%s: measured in %.1f s", suite.name, time.monotonic() - started_s)
        except Exception as error:  # noqa: BLE001 - one suite's failure is not the next one's
            kind = policy.classify(error)
            rest = job.suites[index:] if kind in _ENDS_ATTEMPT else (suite,)
            _note(error, tuple(s.id for s in rest), failures)
            if kind in _ENDS_ATTEMPT:
                return
        else:
            done.append(suite.id)


def _make(
    job: Job, model: Decoder, tokenizer: PreTrainedTokenizerBase, report: Report
) -> tuple[dict[str, Any], Training | None]:
    """Compress and train the model in place; give the facts of what it is then."""
    from ssmbench.execute.fine_tune import fine_tune
    from ssmbench.surgery import compress, facts, units
    from ssmbench.surgery.context import MethodContext

    cell, dense = job.cell, model.description
    shared = Shared(job)
    report("calibrate", 0, 0)
    calibration = None
    if cell.calibration is not None:
        calibration = shared.windows(lambda: _draw(job, tokenizer))
    context = MethodContext(
        seed=cell.seed,
        calibration=calibration,
        batch_tokens=job.batch_tokens,
        report=report,
        share=shared.statistics,
    )
    isolation.seed_everything(cell.seed)
    achieved = compress.apply(model, cell.steps, context)
    for text in units.slow_shapes(model, dense):
        log.info("%s", text)
    training = fine_tune(job, model, tokenizer, shared, dense=lambda: _dense(job), report=report)
    report("facts", 0, 0)
    if training is not None and (zeros := compress.zeros(model, cell.steps[-1])) is not None:
        achieved = zeros
    return {**facts.measure(model, dense), "ratio_achieved": achieved}, training


def _draw(job: Job, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Draw the cell's calibration windows from their text."""
    from ssmbench.surgery.calibration import windows

    wanted = job.cell.calibration
    assert wanted is not None
    return windows(
        wanted.path or wanted.data,
        samples=wanted.samples,
        length=wanted.length,
        seed=wanted.seed,
        tokenizer=tokenizer,
        folder=Path(job.data) if job.data else None,
    )


def _tokenizer_of(job: Job) -> str:
    return job.cell.model.tokenizer or job.cell.model.source


def _dense(job: Job) -> Decoder:
    from ssmbench.models import checkpoint

    model = job.cell.model
    return checkpoint.load(
        model.source,
        tokenizer=model.tokenizer,
        revision=_revision(model.source, model.fingerprint),
        dtype=job.cell.dtype,
        device=job.device,
        name=model.name,
    )


def _compute_dtype(job: Job) -> str:
    """Name what the projections of the job's model run in on this machine."""
    from ssmbench.models.precision import compute_dtype

    return compute_dtype(job.cell.dtype, job.device)


def _revision(source: str, fingerprint: str) -> str | None:
    """Give a hub model's revision, which its fingerprint ends in: `org/name@revision`."""
    return fingerprint.rpartition("@")[2] if source.startswith("hub:") else None


def _measure(
    job: Job,
    suite: Suite,
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    training: Training | None,
    report: Report,
) -> dict[str, list[dict[str, Any]]]:
    """Run one suite in a scratch folder of its own and give its rows by table."""
    from ssmbench.suites._context import Context

    plugin = plugins.load("suite", suite.name)
    params = plugin.Params.model_validate(dict(suite.params))
    scratch = Path(tempfile.mkdtemp(prefix="ssmbench-"))
    isolation.seed_everything(job.cell.seed)
    try:
        context = Context(
            model=model,
            tokenizer=tokenizer,
            dense=lambda: _dense(job),
            data=Path(job.data) if job.data else None,
            limit=suite.limit,
            seed=job.cell.seed,
            batch_tokens=job.batch_tokens,
            scratch=scratch,
            report=report,
            training=training,
        )
        result = plugin.run(context, params)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {table: getattr(result, table) for table in SUITE_TABLES}


def _missing(job: Job, done: list[str], failures: list[SuiteFailure]) -> tuple[str, ...]:
    known = {*done, *(suite for failure in failures for suite in failure.suites)}
    return tuple(s.id for s in job.suites if s.id not in known)


def _note(error: Exception, suites: tuple[str, ...], failures: list[SuiteFailure]) -> None:
    """Log an error with its traceback and add it to `failures`."""
    kind = policy.classify(error)
    log.error("failed (%s): %s", kind, "".join(traceback.format_exception(error)).rstrip())
    failures.append(SuiteFailure(suites, kind, policy.message_of(error)))
    # The traceback's frames hold the model; the process may go on to another cell.
    traceback.clear_frames(error.__traceback__)


def _memory(device: str) -> dict[str, int | None]:
    """Give the process's largest memory during the attempt, in bytes; None where not told."""
    gpu = _peak.gpu_bytes() if device != "cpu" else None
    return {"peak_memory_bytes": _peak.host_bytes(), "peak_gpu_memory_bytes": gpu}


def _release(device: str) -> None:
    """Give back what the attempt's model held, for the next attempt in the same process."""
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
