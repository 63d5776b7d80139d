"""Where numbers were made: code, versions and machine; JSON-safe, cheap, never fails."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = (
    "ssmbench",
    "torch",
    "transformers",
    "lm_eval",
    "ray",
    "datasets",
    "tokenizers",
    "numpy",
    "polars",
    "pyarrow",
    "mamba-ssm",
    "causal-conv1d",
)
_GIT_TIMEOUT_S = 5


@cache
def versions() -> dict[str, str]:
    """Give the versions of Python and of the libraries that touch numbers, if installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Give (commit, has uncommitted changes) of this package's checkout, or (None, None)."""
    package = Path(__file__).parents[1]
    # An installed copy inside somebody's repository is not a checkout of ours.
    if not (package.parent / ".git").exists():
        return None, None
    commit = _output("git", "-C", str(package), "rev-parse", "HEAD")
    status = _output("git", "-C", str(package), "status", "--porcelain")
    return commit or None, None if status is None else bool(status)


@cache
def cpu_model() -> str:
    """Give the processor's name as the system tells it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware", "cpu model") and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown CPU"


@cache
def gpu_model() -> str | None:
    """Give the first GPU's name without importing torch; None where there is none."""
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines()[0].strip() if names else None


def n_cpus() -> int:
    """Count the processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def n_threads(num_cpus: float) -> int:
    """Give the torch threads for an attempt: its CPUs, rounded down, at least one."""
    return max(1, int(num_cpus))


def device_name(*, num_cpus: float, num_gpus: float, accelerator_type: str | None = None) -> str:
    """Name the device of a timing, as it stands in a timing suite's identity.

    A GPU by its model (the one asked for, else this machine's); a CPU by its model and the
    threads given, since a time on another number of threads is another number.
    """
    if num_gpus > 0:
        return accelerator_type or gpu_model() or "unknown GPU"
    threads = n_threads(num_cpus)
    return f"{cpu_model()}, {threads} thread{'' if threads == 1 else 's'}"


def describe() -> dict[str, Any]:
    """Give everything about code and machine that an attempt's outcome records."""
    commit, dirty = git_state()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "gpu": gpu_model(),
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": versions(),
    }


def _output(*command: str) -> str | None:
    """Run a command and give its output without the last newline; None if it cannot or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
