"""The columns of a latency row, from raw seconds and what was seen beside them."""

from __future__ import annotations

import gc
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ssmbench.suites._memory import release
from ssmbench.suites._timing import is_out_of_memory, percentiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from ssmbench.suites._gemms import Gemm
    from ssmbench.suites._memory import Needed
    from ssmbench.suites._strangers import Conditions
    from ssmbench.suites._timing import Times, Work

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Ready:
    """A model's work on one shape, which has run twice: a first call, and one that was watched.

    Attributes:
        work: what is to be timed.
        first_call_s: wall-clock seconds of the first call.
        needed: the second call's memory and seconds.
        state_bytes: what the prompts' state takes.
        weights_bytes: what the model takes.
        held_bytes: what is held between calls besides the weights.
        gemms: the products of one call.
        capture_s: seconds that capturing a step as a CUDA graph took; None where it runs plainly.
    """

    work: Work
    first_call_s: float
    needed: Needed
    state_bytes: int
    weights_bytes: int
    held_bytes: int
    gemms: list[Gemm]
    capture_s: float | None = None

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that this model alone holds at a time; None where not told."""
        working = self.needed.working_bytes
        return None if working is None else self.weights_bytes + self.held_bytes + working

    def warmup_s(self, times: Times) -> float:
        """Add up the calls before the first timed one."""
        return self.first_call_s + self.needed.seconds + sum(times.untimed_s)


def attempt(make: Callable[[], _Made], device: torch.device) -> tuple[_Made | None, str]:
    """Make something; where memory does not suffice, give None and say so."""
    try:
        return make(), ""
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the handler, whose traceback holds what is to be released.
    gc.collect()
    release(device)
    return None, "out of memory"


def own(
    ready: Ready, times: Times, steps: int, n_tokens: int, device: torch.device
) -> dict[str, Any]:
    """Give the compressed model's columns.

    Args:
        ready: its work.
        times: its times.
        steps: equal steps in each call; the columns are of one.
        n_tokens: tokens of one step.
        device: what it ran on.
    """
    raw = [took.device_s / steps for took in times.timed]
    wall = [took.wall_s / steps for took in times.timed]
    on_gpu = device.type == "cuda"
    found: dict[str, Any] = dict(percentiles(raw))
    return found | {
        "n": len(raw),
        "tokens_per_s": n_tokens / found["median_s"],
        "first_token_s": statistics.median(wall),
        "timer": "cuda_events" if on_gpu else "wall",
        "raw_s": raw,
        "wall_raw_s": wall if on_gpu else None,
        "first_call_s": ready.first_call_s,
        "warmup_s": ready.warmup_s(times),
        "capture_s": ready.capture_s,
        "peak_memory_bytes": ready.peak_bytes,
        "weights_bytes": ready.weights_bytes,
        "state_bytes": ready.state_bytes,
    }


def beside(dense: Ready | None, times: Times | None, steps: int) -> dict[str, Any]:
    """Give the dense model's columns; None of one that could not be timed."""
    if dense is None or times is None:
        names = ("dense_median_s", "dense_raw_s", "dense_warmup_s", "dense_peak_memory_bytes")
        return dict.fromkeys(names)
    raw = [took.device_s / steps for took in times.timed]
    return {
        "dense_median_s": statistics.median(raw),
        "dense_raw_s": raw,
        "dense_warmup_s": dense.warmup_s(times),
        "dense_peak_memory_bytes": dense.peak_bytes,
    }


def floor_of(times: Times | None, steps: int) -> dict[str, Any]:
    """Give the columns of the compressed model's products alone."""
    if times is None:
        return {"floor_s": None, "floor_raw_s": None}
    raw = [took.device_s / steps for took in times.timed]
    return {"floor_s": statistics.median(raw), "floor_raw_s": raw}


def unknown(conditions: Conditions, ready: Ready) -> dict[str, str]:
    """Say which columns are null, and why."""
    why = dict(conditions.unknown)
    if ready.peak_bytes is None:
        why["peak_memory_bytes"] = "the system does not tell"
    return why


def sentence(why: Mapping[str, str]) -> str | None:
    """Say why columns are null: `power_w, temperature_c: a processor does not tell`."""
    names: dict[str, list[str]] = {}
    for name, reason in why.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(n)}: {reason}" for reason, n in names.items()) or None
