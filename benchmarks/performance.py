"""Write docs/performance.md from the result files.

    python benchmarks/performance.py

A row is filled by the result file that names its target; of several the latest. GPU rows are
filled from what `make gpu-check` wrote into benchmarks/results/gpu. Nothing is typed in by hand.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"

Found = dict[str, Any]


@dataclass(frozen=True)
class Reached:
    """What a row of the table came to."""

    ratio: Mapping[str, float]
    machine: str
    date: str
    command: str
    disturbance: str | None = None


@dataclass(frozen=True)
class Target:
    """One row.

    Attributes:
        what: what is measured, and against whom.
        goal: the number to reach; None where it is only told.
        sense: whether larger or smaller is better.
        source: the name of the target in a result file, or how to read it from the files of
            `make gpu-check`.
    """

    what: str
    goal: float | None
    sense: Literal["≥", "≤"]
    source: str | Callable[[Path], Reached | None]

    def is_met(self, value: float) -> bool:
        """Whether a median reaches the goal, which is there."""
        assert self.goal is not None
        return value >= self.goal if self.sense == "≥" else value <= self.goal


def _gpu(step: str, read: Callable[[Found], list[float]]) -> Callable[[Path], Reached | None]:
    """Read a step's file; None where it was not run, or only tried."""

    def found(folder: Path) -> Reached | None:
        path = folder / "gpu" / f"{step}.json"
        if not path.is_file():
            return None
        told = json.loads(path.read_text("utf-8"))
        values = read(told) if told["status"] == "ok" and not told["small"] else []
        if not values:
            return None
        ends = {"median": statistics.median(values), "lower": min(values), "upper": max(values)}
        where = f"{told['device']}, torch {told['torch']}"
        return Reached(ends | {"n": len(values)}, where, told["date"][:10], "make gpu-check")

    return found


def _prefill(model: str) -> Callable[[Found], list[float]]:
    def read(told: Found) -> list[float]:
        return [
            dense / mine
            for row in told["rows"]
            if (row["model"], row["phase"], row["length"]) == (model, "prefill", 8192)
            and row["speedup"] is not None
            for dense, mine in zip(row["dense_raw_s"], row["raw_s"], strict=True)
        ]

    return read


def _kept(method: str) -> Callable[[Found], list[float]]:
    """Give latency kept ÷ parameters kept at every prefill shape of a method."""

    def read(told: Found) -> list[float]:
        return [
            1 / row["speedup"] / row["params_kept"]
            for row in told["rows"]
            if (row["method"], row["phase"]) == (method, "prefill") and row["speedup"] is not None
        ]

    return read


def _scored(told: Found) -> list[float]:
    """Give each turn's ratio over all tasks."""
    turns = [row["raw_s"] for row in told["rows"]]
    return [
        sum(turn["hflm"][i] for turn in turns) / sum(turn["ours"][i] for turn in turns)
        for i in range(len(turns[0]["ours"]))
    ]


def _graphs(model: str) -> Callable[[Found], list[float]]:
    """Give each turn's plain step over its step as a graph, of one sequence."""

    def read(told: Found) -> list[float]:
        return [
            plain / graph
            for row in told["rows"]
            if (row["model"], row["batch"], row["graph"]) == (model, 1, "captured")
            for plain, graph in zip(row["plain_s"], row["graph_s"], strict=True)
        ]

    return read


def _trained(model: str) -> Callable[[Found], list[float]]:
    """Give the tokens a second of what auto takes over those of the torch forms."""

    def read(told: Found) -> list[float]:
        rates = {r["asked"]: r["tokens_per_s"] for r in told["rows"] if r["model"] == model}
        return [rates["auto"] / rates["torch"]] if rates.keys() >= {"auto", "torch"} else []

    return read


_SIX = (
    "six tasks zero-shot, 200 documents each, {}'s shape, float32: lm-eval's HFLM with"
    " transformers ÷ ours"
)
_MIXER = "whole {} mixer ÷ its own matrix products, B 4, L 512, d_model 768, {}"
_THREADS = {"cpu": "one thread, processor time", "wall": "all cores, by the clock"}
_HALF = {
    "native": "bfloat16 in the processor's units",
    "stored": "bfloat16 weights computed with in float32",
}
_PHASES = {"prefill": "a prompt of 2048 tokens", "decode": "one token after it"}
_SAVED = "Simba at ratio 0.9, T = 2048, {}'s shape: time saved ÷ FLOPs saved"
TARGETS = (
    Target(
        _SIX.format("mamba2-130m"),
        8,
        "≥",
        targets.scoring("mamba2-130m", targets.SIX_TASKS, shots=0, limit=200),
    ),
    Target(
        _SIX.format("mamba-130m"),
        4,
        "≥",
        targets.scoring("mamba-130m", targets.SIX_TASKS, shots=0, limit=200),
    ),
    Target(
        "25-shot arc_challenge, 50 documents, mamba2-130m's shape, float32: lm-eval's HFLM with"
        " transformers ÷ ours",
        7,
        "≥",
        targets.scoring("mamba2-130m", ("arc_challenge",), shots=25, limit=50),
    ),
    *(
        Target(
            _MIXER.format(kind, text), goal, "≤", targets.mixer(model, clock, batch=4, length=512)
        )
        for kind, model, goal in (("SSD", "mamba2-130m", 1.4), ("Mamba-1", "mamba-130m", 1.6))
        for clock, text in _THREADS.items()
    ),
    Target(
        "continuation, B 16, L 6, Mamba-2 of d_model 768: transformers ÷ ours",
        20,
        "≥",
        targets.continuation(batch=16, length=6),
    ),
    Target(_SAVED.format("mamba2-130m"), 0.95, "≥", targets.simba("mamba2-130m", 2048, 0.9)),
    Target(_SAVED.format("mamba-130m"), 0.85, "≥", targets.simba("mamba-130m", 2048, 0.9)),
    *(
        Target(
            f"our mamba2-130m's shape, {text}, one thread: float32 ÷ {how}",
            None,
            "≥",
            targets.half("mamba2-130m", way, phase, 2048),
        )
        for way, how in _HALF.items()
        for phase, text in _PHASES.items()
    ),
    Target(
        "toy grid on two processors: one process of two threads ÷ two processes of one",
        1,
        "≥",
        targets.processes(200),
    ),
    Target(
        "GPU: mamba2-2.7b's shape, bf16, six tasks' token lengths: lm-eval's way with mamba-ssm's"
        " kernels ÷ ours",
        1.7,
        "≥",
        _gpu("scoring", _scored),
    ),
    *(
        Target(
            f"GPU: Simba prefill, {model}'s shape, bf16, T = 8192, ratio 0.9: dense with the same"
            " kernels ÷ ours (ideal 1.82)",
            1.7,
            "≥",
            _gpu("simba", _prefill(model)),
        )
        for model in ("mamba2-2.7b", "mamba-2.8b")
    ),
    *(
        Target(
            f"GPU: mamba2-2.7b's shape, bf16, {method} 0.5 in multiples of 16, prefill: latency"
            " kept ÷ parameters kept",
            1.15,
            "≤",
            _gpu("structured", _kept(method)),
        )
        for method in ("state", "head", "head_dim")
    ),
    *(
        Target(
            f"GPU: a decoding step of one sequence, {model}'s shape, bf16: kernel by kernel ÷ as a"
            " CUDA graph",
            None,
            "≥",
            _gpu("decoding", _graphs(model)),
        )
        for model in ("mamba2-2.7b", "mamba-2.8b")
    ),
    *(
        Target(
            f"GPU: distilling {model}'s shape, bf16, tokens a second: with the kernels of `auto` ÷"
            " with the PyTorch forms",
            None,
            "≥",
            _gpu("training", _trained(model)),
        )
        for model in ("mamba2-130m", "mamba-130m")
    ),
)

_ABOUT = (
    "Every figure is a ratio taken in one run by a committed benchmark: both sides take turns in"
    " one process, a ratio is of one turn, and the table gives the median of the turns with their"
    " quartiles (of three or fewer, the ends). None is asserted in a test. Raw seconds, versions"
    " and machine are in `benchmarks/results`. The peers are lm-eval's `HFLM` with transformers'"
    " Mamba classes, transformers' mixers, lm-eval's way with mamba-ssm's kernels and, for a mixer,"
    " the matrix products that it cannot do without. HFLM scores a stratified draw of the"
    " documents, since all would take it hours; how many, and their lengths beside ours, is in the"
    " file."
)
HEAD = f"""<!-- Written by benchmarks/performance.py from benchmarks/results; do not edit. -->

# Performance

{_ABOUT}

    make bench DATA=DIR           # half an hour on two idle cores; DIR holds local task data
    make bench DATA=DIR QUICK=1   # shows that every script works
    make gpu-check                # on a machine with a GPU

"""


def read(folder: Path) -> dict[str, Reached]:
    """Give target name -> what was reached, of the latest result file that has it."""
    found: dict[str, Reached] = {}
    for path in sorted(folder.glob("*.json")):
        told = json.loads(path.read_text("utf-8"))
        for name, ratio in told.get("targets", {}).items() if isinstance(told, dict) else ():
            reached = Reached(
                ratio, _where(told["machine"]), told["date"], told["command"], told["disturbance"]
            )
            if name not in found or found[name].date <= reached.date:
                found[name] = reached
    return found


def page(folder: Path = RESULTS) -> str:
    """Write the page of a folder of results."""
    known = read(folder)
    rows = []
    for target in TARGETS:
        source = target.source
        rows.append((target, known.get(source) if isinstance(source, str) else source(folder)))
    lines = ["| what | target | reached | | where | date |", "|---|---:|---:|---|---|---|"]
    lines += [_line(*row) for row in rows]
    commands = list(dict.fromkeys(r.command for _, r in rows if r is not None))
    notes = ["Commands of these figures:", "", *(f"    {c}" for c in commands)] if commands else []
    disturbed = [r.disturbance for _, r in rows if r is not None and r.disturbance]
    if disturbed:
        notes = [f"† The machine was not idle ({disturbed[0]}): not to be published.", "", *notes]
    return HEAD + "\n".join([*lines, "", *notes]).rstrip() + "\n"


def _line(target: Target, reached: Reached | None) -> str:
    goal = "" if target.goal is None else f"{target.sense} {target.goal:g}"
    if reached is None:
        waits = "waiting for a GPU" if callable(target.source) else "not measured"
        return f"| {target.what} | {goal} | {waits} | | | |"
    ratio = reached.ratio
    met = ""
    if target.goal is not None:
        met = "met" if target.is_met(ratio["median"]) else "missed"
    mark = "†" if reached.disturbance else ""
    value = f"{_shown(ratio['median'])}{mark} [{_shown(ratio['lower'])}, {_shown(ratio['upper'])}]"
    return f"| {target.what} | {goal} | {value} | {met} | {reached.machine} | {reached.date} |"


def _shown(value: float) -> str:
    """Give three significant digits."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:.{max(0, digits)}f}"


def _where(machine: Mapping[str, Any]) -> str:
    return f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}"


def write() -> None:
    """Write the page of the committed results."""
    part = PAGE.with_suffix(".part")
    part.write_text(page(), "utf-8")
    part.replace(PAGE)
    print(f"written to {PAGE.relative_to(HERE.parent)}")


if __name__ == "__main__":
    write()
