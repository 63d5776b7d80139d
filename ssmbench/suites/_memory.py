"""How much memory a piece of work needs, and how much there is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ssmbench.kernels.memory import release_freed_memory
from ssmbench.suites import _peak

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn
else:
    from ssmbench.lazy import torch

_MEMINFO = Path("/proc/meminfo")
# Limit and use of this process's group: version 2, then version 1.
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


class Needed(NamedTuple):
    """What a call needed: bytes beyond what was held before it; None where not told."""

    working_bytes: int | None
    seconds: float


def needed(work: Callable[[], object], device: torch.device) -> Needed:
    """Run work once and see how much memory it takes on top of what is there.

    On a GPU by torch's allocator. On a CPU by the process's resident memory, from a state in
    which what earlier work freed is given back.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = _peak.recount_gpu(device)
        seconds = _run(work, device)
        return Needed(int(torch.cuda.max_memory_allocated(device)) - before, seconds)
    resident = _peak.recount_host()
    seconds = _run(work, device)
    peak = _peak.status_bytes("VmHWM")
    if peak is None or resident is None:
        return Needed(None, seconds)
    return Needed(max(0, peak - resident), seconds)


def weights_bytes(model: nn.Module) -> int:
    """Count the bytes that a model's parameters and buffers hold, shared ones once.

    A compressed tensor counts as what it is made of: of 2:4 weights the kept values and where
    they are.
    """
    return sum(_held(tensor) for tensor in (*model.parameters(), *model.buffers()))


def _held(tensor: torch.Tensor) -> int:
    """Count a tensor's bytes; those of its parts, where it is only the name of several."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.element_size()
    names, _ = tensor.__tensor_flatten__()
    return sum(_held(getattr(tensor, name)) for name in names)


def free_bytes(device: torch.device) -> int | None:
    """Say how much memory is free; None where the system does not tell, or an allocator will."""
    if device.type == "cuda":
        return None
    free = [_from_meminfo()]
    for limit, used in _GROUPS:
        try:
            free.append(int(limit.read_text("ascii")) - int(used.read_text("ascii")))
        except (OSError, ValueError):  # No such group, or "max".
            continue
    return min((f for f in free if f is not None), default=None)


def release(device: torch.device) -> None:
    """Give back what nothing holds any more."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        release_freed_memory()


def _run(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _from_meminfo() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return next(found, None)
