"""What `ssmbench doctor` asks of each machine; it runs there.

Only the standard library is imported at the top: the class travels by value, so that a machine
without ssmbench, or with another version of it, can still say so.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from typing import Any

_TIMEOUT_S = 20.0
_VARIABLES = (
    "RAY_AUTH_MODE",
    "RAY_enable_autoscaler_v2",
    "RAY_grpc_client_keepalive_time_ms",
    "RAY_grpc_client_keepalive_timeout_ms",
)


class Probe:
    """Answers of one machine; every one is plain data."""

    def facts(self) -> dict[str, Any]:
        """Give the host, Python, libraries, GPUs and the variables that matter here."""
        return {
            "host": socket.gethostname(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "command": _command_python(),
            "versions": _versions(),
            "gpus": _gpus(),
            "variables": {n: os.environ[n] for n in _VARIABLES if n in os.environ},
        }

    def clock(self) -> float:
        """Give this machine's Unix time, in seconds."""
        return time.time()

    def write(self, run: str, name: str, data: bytes) -> str | None:
        """Write a file of the run folder; give the problem, if there is one."""
        try:
            from ssmbench.store import atomic
            from ssmbench.store.address import place

            atomic.write_bytes(place(run) / name, data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return _one_line(error)
        return None

    def read(self, run: str, name: str, data: bytes) -> str | None:
        """Read it back, wherever it was written; give the problem, if there is one."""
        try:
            from ssmbench.store.address import place

            found = (place(run) / name).read_bytes()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return _one_line(error)
        return None if found == data else f"read {len(found)} other bytes"

    def missing(self, sources: list[str], data: str | None) -> dict[str, str]:
        """Give what cannot be had here: for each model (as in `Model.source`) and folder, why."""
        found = {}
        for source in sources:
            problem = _problem_with(source)
            if problem:
                found[source] = problem
        if data is not None and not os.path.isdir(data):  # noqa: PTH112 - see the module's text
            found[data] = "there is no such folder"
        return found

    def kernels(self, device: str) -> dict[str, Any]:
        """Run each kernel against its twin, on `auto`'s backend and on every other.

        Returns:
            The device's name, the errors with their limit, what computed, and for each backend
            why it does not compute what it does not; or a problem.
        """
        try:
            import torch

            from ssmbench.kernels import backends, check

            name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
            # First: a GPU may be lent to one process at a time. A processor has torch's forms.
            able = [] if device == "cpu" else backends.available(device)
            found = {a.backend: dict(a.problems) for a in able}
            with backends.using("auto", device), backends.recording() as computed:
                errors = check.errors(device)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return {"problem": _one_line(error)}
        return {
            "name": name,
            "errors": errors,
            "limit": check.LARGEST_ERROR,
            "computed": computed.text,
            "backends": found,
        }


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _versions() -> dict[str, str] | None:
    """Give the libraries' versions; None where ssmbench itself is not installed."""
    try:
        from ssmbench.execute import environment
    except ImportError:
        return None
    return environment.versions()


def _gpus() -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _command_python() -> str | None:
    """Give the version of what `python` means in a job's shell; None if it means nothing."""
    if shutil.which("python") is None:
        return None
    try:
        done = subprocess.run(
            ["python", "-c", "import sys, ssmbench; print(ssmbench.__version__, sys.prefix)"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _problem_with(source: str) -> str | None:
    kind, _, name = source.partition(":")
    if kind == "folder":
        return None if os.path.isdir(name) else "there is no such folder"  # noqa: PTH112
    if kind != "hub":
        return None
    try:
        from huggingface_hub import HfApi, try_to_load_from_cache

        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return None
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            return "is not in the cache, and HF_HUB_OFFLINE=1"
        HfApi().model_info(name, timeout=_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return _one_line(error)
    return None
