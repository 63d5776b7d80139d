"""The most memory that this process has held, over counts that start the counter anew.

The system and torch keep one greatest value each. Who counts a single piece of work sets it back
first; what it had reached by then is kept here, so that the whole attempt's peak stays known.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ssmbench.kernels.memory import release_freed_memory

if TYPE_CHECKING:
    import torch
else:
    from ssmbench.lazy import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")

# Bytes reached before the counter was last set back.
_reached = {"host": 0, "gpu": 0}


def begin() -> None:
    """Let both peaks start from now, where the system can (Linux).

    What earlier work freed is given back first: it is no need of what comes.
    """
    release_freed_memory()
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    _reached.update(host=0, gpu=0)


def host_bytes() -> int:
    """Give the process's largest resident memory since `begin`, in bytes."""
    return max(_reached["host"], _host_counter())


def gpu_bytes() -> int:
    """Give the most that torch has held on the GPU since `begin`, in bytes."""
    return max(_reached["gpu"], int(torch.cuda.max_memory_allocated()))


def recount_host() -> int | None:
    """Give back what is free, set the system's counter back, and give the bytes held now.

    None where the system cannot.
    """
    _reached["host"] = host_bytes()
    release_freed_memory()
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return None
    return status_bytes("VmRSS")


def recount_gpu(device: torch.device) -> int:
    """Set torch's counter back and give the bytes held now."""
    _reached["gpu"] = gpu_bytes()
    torch.cuda.reset_peak_memory_stats(device)
    return int(torch.cuda.memory_allocated(device))


def status_bytes(name: str) -> int | None:
    """Read one of the process's figures, such as "VmHWM"; None where there is none."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    return next(found, None)


def _host_counter() -> int:
    seen = status_bytes("VmHWM")
    if seen is not None:
        return seen
    # Kilobytes on Linux, bytes on macOS.
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
