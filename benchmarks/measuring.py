"""What benchmarks share: turns, spreads, and result files that say where they are from.

A result file holds `benchmark`, `command`, `date`, `machine`, `disturbance` (who else used the
processors meanwhile, or null), `targets` (name -> median, lower, upper, n) and `results`.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import shlex
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ssmbench.execute.environment import cpu_model
from ssmbench.suites._strangers import HostWatch

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

Item = TypeVar("Item")

LIBRARIES = ("ssmbench", "torch", "transformers", "lm_eval", "triton", "mamba-ssm")
# Where things are on this machine is nobody's business; what they are is.
_PLACES = {"--data": "DATA", "--tokenizer": "TOKENIZER", "--out": "FILE"}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give the median and the quartiles; of fewer than four values, the ends."""
    ends = (min(values), max(values))
    lower, *_, upper = statistics.quantiles(values, n=4) if len(values) > 3 else ends
    found = {"median": statistics.median(values), "lower": lower, "upper": upper}
    return {name: round(value, 4) for name, value in found.items()} | {"n": len(values)}


def take_turns(
    works: Mapping[str, Callable[[], object]],
    *,
    turns: int,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[str], object] = lambda _name: None,
) -> dict[str, list[float]]:
    """Time each piece of work once a turn, in an order that alternates, after one untimed turn.

    Args:
        works: by name.
        turns: that count.
        clock: gives seconds; `time.process_time` for the process's own processor time.
        before: called with the name before each, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name in list(works) if turn % 2 else reversed(works):
            before(name)
            start = clock()
            works[name]()
            took = clock() - start
            if turn:
                seconds[name].append(took)
    return seconds


def stratified(
    items: Sequence[Item], n: int, draw: random.Random, *, size: Callable[[Item], int]
) -> list[Item]:
    """Draw n items, one of each of n parts of equal number in the order of size."""
    ordered = sorted(items, key=size)
    bounds = [round(i * len(ordered) / n) for i in range(n + 1)]
    return [ordered[draw.randrange(a, b)] for a, b in itertools.pairwise(bounds)]


def in_all(tasks: Sequence[Mapping[str, Sequence[float]]]) -> list[float]:
    """Give each turn's ratio over all tasks, of which each counts with as many documents.

    Args:
        tasks: "hflm" and "ours", seconds per document of each turn.
    """
    return [
        sum(each["hflm"][turn] for each in tasks) / sum(each["ours"][turn] for each in tasks)
        for turn in range(len(tasks[0]["ours"]))
    ]


class Report:
    """Collects what a benchmark finds, and who disturbed it."""

    def __init__(self, benchmark: str, *, watched: bool = True) -> None:
        """Begin to watch the processors.

        Args:
            benchmark: its name.
            watched: False where the work is other processes', which would be taken for strangers.
        """
        self.benchmark, self._watched = benchmark, watched
        self.targets: dict[str, dict[str, float]] = {}
        self.results: list[dict[str, Any]] = []
        self._watch = HostWatch()
        self._watch.begin()

    def write(self, out: Path | None) -> None:
        """Write the result file, whole or not at all; print where the machine was not idle."""
        disturbance = self._watch.end().disturbance if self._watched else None
        if disturbance:
            print(f"not to be published: {disturbance}")
        if out is None:
            return
        found = {
            "benchmark": self.benchmark,
            "command": command_line(sys.argv),
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "disturbance": disturbance,
            "targets": self.targets,
            "results": self.results,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        part.replace(out)


def command_line(words: Sequence[str]) -> str:
    """Give the command as others would type it: without this machine's folders."""
    shown = ["python", f"benchmarks/{Path(words[0]).name}"]
    place = None
    for word in words[1:]:
        shown.append(place or word)
        place = _PLACES.get(word)
    return shlex.join(shown)


def machine() -> dict[str, Any]:
    """Say what this runs on."""
    found: dict[str, Any] = {
        "processor": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
