"""Whether somebody else used the device while it was timed, and at what clock and power it ran.

A processor tells how busy it was, so the time of others is what remains after this process's own.
A GPU tells who is on it, and how busy it is as a whole: that is looked at once, before there is
any work of ours. What cannot be told is None, with the reason.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
else:
    from ssmbench.lazy import torch

# What a machine that does nothing else still does, Ray and a driver on it included.
IDLE_CPUS = 0.25
IDLE_GPU_PERCENT = 5
# The kernel counts in ticks; of each processor's count about one is chance.
_TICK_S = 0.01
_STATE = "--query-gpu=clocks.sm,power.draw,temperature.gpu"
_SETTLE_S = 1.0
_SAMPLE_MS = 250
_ANSWER_S = 10
_STAT = Path("/proc/stat")
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Conditions:
    """How the device was while something was timed.

    Attributes:
        disturbance: who else used it; None if nobody or not known.
        clock_mhz: median; of a GPU its multiprocessors'.
        power_w: median.
        temperature_c: the highest.
        unknown: what of these is not known -> why.
    """

    disturbance: str | None
    clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    unknown: dict[str, str]

    @property
    def publishable(self) -> bool | None:
        """Whether the times stand for the device; None if who used it is not known."""
        if self.disturbance:
            return False
        return None if "publishable" in self.unknown else True


class Watch(Protocol):
    """Looks at a device as long as it is entered."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self) -> None:
        """Begin a stretch of work."""

    def end(self) -> Conditions:
        """End it, and say how the device was."""


def watch(device: torch.device) -> Watch:
    """Give what looks at a device."""
    return GpuWatch(device) if device.type == "cuda" else HostWatch()


class _Look(NamedTuple):
    wall_s: float
    busy_s: float | None
    own_s: float


class HostWatch:
    """Looks at the processors that this process may use."""

    def __init__(self) -> None:
        self._cpus = _allowed()
        self._first = self._began = self._look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def begin(self) -> None:
        """Begin a stretch of work."""
        self._began = self._look()

    def end(self) -> Conditions:
        """End it; a stretch too short to tell is told from what went before it."""
        unknown = dict.fromkeys(("power_w", "temperature_c"), "a processor does not tell")
        clock = _host_clock_mhz(self._cpus)
        if clock is None:
            unknown["clock_mhz"] = "the system does not tell"
        others = self._others()
        disturbance = None
        if others is None:
            unknown["publishable"] = "the system does not tell how busy its processors are"
        elif others > IDLE_CPUS:
            disturbance = f"others used {others:.1f} of {len(self._cpus)} processors meanwhile"
        return Conditions(disturbance, clock, None, None, unknown)

    def _others(self) -> float | None:
        """Give how many processors others kept busy; None if the system does not tell."""
        chance_s = 2 * _TICK_S * math.sqrt(len(self._cpus))
        since, now = self._began, self._look()
        if (now.wall_s - since.wall_s) * IDLE_CPUS < chance_s:
            since = self._first
            time.sleep(max(0.0, chance_s / IDLE_CPUS - (now.wall_s - since.wall_s)))
            now = self._look()
        if now.busy_s is None or since.busy_s is None:
            return None
        others_s = now.busy_s - since.busy_s - (now.own_s - since.own_s)
        return max(0.0, others_s - chance_s) / (now.wall_s - since.wall_s)

    def _look(self) -> _Look:
        return _Look(time.monotonic(), _busy_s(self._cpus), time.process_time())


class GpuWatch:
    """Looks at one GPU through nvidia-smi."""

    def __init__(self, device: torch.device) -> None:
        self._uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        self._smi = shutil.which("nvidia-smi")
        self._samples: list[tuple[float, list[float | None]]] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._began = time.monotonic()
        torch.cuda.synchronize(device)
        time.sleep(_SETTLE_S)  # Until what we did before is out of the GPU's own mean.
        self._busy_percent = _numbers(self._ask("--query-gpu=utilization.gpu"))[:1]

    def __enter__(self) -> Self:
        if self._smi is not None:
            self._process = subprocess.Popen(
                [*self._command(_STATE), f"--loop-ms={_SAMPLE_MS}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self._reader = threading.Thread(target=self._collect, daemon=True)
            self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ANSWER_S)
            if self._reader is not None:
                self._reader.join(_ANSWER_S)

    def begin(self) -> None:
        """Begin a stretch of work."""
        self._began = time.monotonic()

    def end(self) -> Conditions:
        """End it, and look who is there."""
        names = ("clock_mhz", "power_w", "temperature_c")
        lines = [line for when, line in self._samples if when >= self._began and len(line) == 3]
        columns = [[x for x in column if x is not None] for column in zip(*lines, strict=True)]
        clocks, powers, degrees = columns or ([], [], [])
        values = (
            statistics.median(clocks) if clocks else None,
            statistics.median(powers) if powers else None,
            max(degrees, default=None),
        )
        why = "nvidia-smi is not there" if self._smi is None else "nvidia-smi did not tell in time"
        unknown = {n: why for n, v in zip(names, values, strict=True) if v is None}
        disturbance, known = self._strangers()
        if not known and disturbance is None:
            unknown["publishable"] = why
        return Conditions(disturbance, *values, unknown)

    def _strangers(self) -> tuple[str | None, bool]:
        """Say who else is there, and whether that is known."""
        said = self._ask("--query-compute-apps=pid")
        busy = next(iter(self._busy_percent), None)
        found = []
        others = strangers_of(said or "")
        if others:
            found.append(f"{len(others)} other process(es) on the GPU (PID {', '.join(others)})")
        if busy is not None and busy > IDLE_GPU_PERCENT:
            found.append(f"the GPU was {busy:g} % busy before anything was timed")
        return "; ".join(found) or None, said is not None and busy is not None

    def _collect(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._samples.append((time.monotonic(), _numbers(line)))

    def _command(self, query: str) -> list[str]:
        return [str(self._smi), query, f"--id={self._uuid}", "--format=csv,noheader,nounits"]

    def _ask(self, query: str) -> str | None:
        if self._smi is None:
            return None
        try:
            done = subprocess.run(
                self._command(query), capture_output=True, text=True, timeout=_ANSWER_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


def strangers_of(listed: str) -> list[str]:
    """Give the processes that nvidia-smi lists, but for this one.

    In a container, where processes have other numbers, one of those listed is this one.
    """
    found = [line.strip() for line in listed.splitlines() if line.strip()]
    own = str(os.getpid())
    return [pid for pid in found if pid != own] if own in found else found[1:]


def _numbers(line: str | None) -> list[float | None]:
    """Read `1980, 350.1, [N/A]`."""
    found: list[float | None] = []
    for text in (line or "").split(","):
        try:
            found.append(float(text))
        except ValueError:
            found.append(None)
    return found


def _allowed() -> frozenset[int]:
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:
        return frozenset(range(os.cpu_count() or 1))


def _busy_s(cpus: frozenset[int]) -> float | None:
    """Add up what the processors did since the machine's start, seconds; stolen time is theirs."""
    try:
        lines = _STAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    ticks = 0
    for line in lines:
        name, *counts = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            # user nice system idle iowait irq softirq steal; guests are in user already.
            ticks += sum(int(c) for i, c in enumerate(counts[:8]) if i not in (3, 4))
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def _host_clock_mhz(cpus: Sequence[int] | frozenset[int]) -> float | None:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    told = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return statistics.median(told[i] for i in cpus) if told and max(cpus) < len(told) else None


def told(conditions: Conditions) -> dict[str, Any]:
    """Give the columns of a latency row."""
    return {
        "publishable": conditions.publishable,
        "disturbance": conditions.disturbance,
        "clock_mhz": conditions.clock_mhz,
        "power_w": conditions.power_w,
        "temperature_c": conditions.temperature_c,
    }
