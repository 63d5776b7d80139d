"""What an attempt finds around it: log, environment, threads, determinism, random numbers.

Everything is put back afterwards, since a process may go on to another cell or, inline, to
whatever the user does next.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ssmbench.execute.environment import n_threads
from ssmbench.kernels import backends
from ssmbench.kernels.memory import keep_freed_memory
from ssmbench.store import logs
from ssmbench.store.folder import RunFolder
from ssmbench.suites import _peak

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ssmbench.execute.job import Job

log = logging.getLogger(__name__)


def variables(*, num_cpus: float, data: str | None, offline: bool) -> dict[str, str]:
    """Give the environment of an attempt's process.

    Threads are fixed, since sums over another number of threads have other last bits; lm-eval
    must neither fork a pool for standard errors nor write a cache into its own package.
    """
    n = str(n_threads(num_cpus))
    found = {
        "OMP_NUM_THREADS": n,
        "MKL_NUM_THREADS": n,
        "OPENBLAS_NUM_THREADS": n,
        "TOKENIZERS_PARALLELISM": "false",
        "DISABLE_MULTIPROC": "1",
        "LM_HARNESS_CACHE_PATH": str(Path(tempfile.gettempdir()) / "ssmbench-lm-eval"),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    if data is not None:
        found["HF_DATASETS_OFFLINE"] = "1"
    if offline:
        found |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return found


@contextlib.contextmanager
def surroundings(job: Job) -> Iterator[None]:
    """Set up log, environment, threads and determinism for an attempt, and put all back."""
    found = variables(num_cpus=job.num_cpus, data=job.data, offline=job.offline)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(logs.writing(RunFolder.at(job.folder), job.log))
        stack.enter_context(_logging_to(stream))
        if job.capture:
            stack.enter_context(_prints_to(stream))
        stack.enter_context(_environment(found))
        # Torch first: its threads are set from the environment when it is imported.
        stack.enter_context(_torch(n_threads(job.num_cpus), deterministic=job.kind == "quality"))
        if job.device != "cpu" and job.gpu_share < 1:
            stack.enter_context(_gpu_memory_of(job.gpu_share))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(_garbage_of_its_own())
        if job.device == "cpu":
            keep_freed_memory()
        _peak.begin()
        yield


@contextlib.contextmanager
def kernels(job: Job) -> Iterator[None]:
    """Put the job's backend in use, and say in the log what it computes.

    Raises:
        PrerequisiteError: it was named, and can compute nothing on this machine.
    """
    with backends.using(job.backend, job.device, job.cell.dtype) as choice:
        if job.device != "cpu":
            computed = ", ".join(f"{op} by {who}" for op, who in choice.providers.items())
            log.info("backend %s: %s; all else by torch", job.backend, computed or "nothing")
            for found in choice.found:
                for operation, problem in found.problems.items():
                    if problem is not None:
                        log.info("%s cannot compute %s: %s", found.backend, operation, problem)
        yield


def seed_everything(seed: int) -> None:
    """Start Python's, numpy's and torch's random numbers anew."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(seed)


@contextlib.contextmanager
def _gpu_memory_of(share: float) -> Iterator[None]:
    """Keep to a part of the GPU's memory, so that who shares it is not the one to fail."""
    import torch

    torch.cuda.set_per_process_memory_fraction(share)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextlib.contextmanager
def _garbage_of_its_own() -> Iterator[None]:
    """Let the search for garbage pass over what was there before the attempt.

    The libraries are a million objects, in which one search takes as long as a toy cell's times.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _logging_to(stream: TextIO) -> Iterator[None]:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@contextlib.contextmanager
def _prints_to(stream: TextIO) -> Iterator[None]:
    """Send Python's prints and file descriptors 1 and 2 to the stream.

    Native code and child processes write to the descriptors; in a Ray worker Python's own
    prints go elsewhere.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
    finally:
        for descriptor, old in zip((1, 2), saved, strict=True):
            os.dup2(old, descriptor)
            os.close(old)


@contextlib.contextmanager
def _environment(found: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in found}
    os.environ.update(found)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _torch(n: int, *, deterministic: bool) -> Iterator[None]:
    """Fix torch's threads, and its algorithms where numbers rather than times are wanted."""
    import torch

    memory: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = memory.fill_uninitialized_memory
    torch.set_num_threads(n)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Filling every new tensor costs time and only guards code that reads what it never wrote.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        memory.fill_uninitialized_memory = fill
