"""Work that is timed in turns, and what its times come to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    from ssmbench.lazy import torch

Work = Callable[[], "Tensor | None"]
"""Queues its work on the device; gives a small tensor that is there when all is done, or None."""

# With fewer repeats the 99th percentile is a guess between the two slowest.
LEAST_FOR_P99 = 100


class Took(NamedTuple):
    """Seconds of one call: on the device, and by the wall clock until its result is on the host.

    Both are the wall clock's where the device is the host's processor.
    """

    device_s: float
    wall_s: float


@dataclass(frozen=True)
class Times:
    """All calls of one piece of work.

    Attributes:
        untimed_s: by the wall clock, of the calls that warm up, the first one first.
        timed: every repeat.
    """

    untimed_s: tuple[float, ...]
    timed: tuple[Took, ...]


def timed(work: Work, device: torch.device) -> Took:
    """Time one call, from an idle device on: by CUDA's events where the device has them."""
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        return Took(seconds, seconds)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    begin.record()
    result = work()
    end.record()
    if result is not None:
        result.cpu()
    torch.cuda.synchronize(device)
    return Took(begin.elapsed_time(end) / 1e3, time.perf_counter() - start)


def take_turns(
    works: Sequence[Work], device: torch.device, *, warmup: int, repeats: int
) -> list[Times]:
    """Time each piece of work `repeats` times, in turns whose order alternates.

    A slow drift of the machine's clock then meets all alike.
    """
    untimed: list[list[float]] = [[] for _ in works]
    found: list[list[Took]] = [[] for _ in works]
    for turn in range(warmup + repeats):
        order = list(enumerate(works))
        for i, work in order if turn % 2 == 0 else reversed(order):
            took = timed(work, device)
            if turn < warmup:
                untimed[i].append(took.wall_s)
            else:
                found[i].append(took)
    return [Times(tuple(u), tuple(t)) for u, t in zip(untimed, found, strict=True)]


def percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """Give median_s, p10_s, p90_s and p99_s (None of fewer than 100 values), interpolated."""
    tenths = statistics.quantiles(seconds, n=10, method="inclusive")
    last = None
    if len(seconds) >= LEAST_FOR_P99:
        last = statistics.quantiles(seconds, n=100, method="inclusive")[-1]
    return {
        "median_s": statistics.median(seconds),
        "p10_s": tenths[0],
        "p90_s": tenths[-1],
        "p99_s": last,
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory, or the host's, is full."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    texts = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "allocate memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
