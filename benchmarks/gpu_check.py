"""Everything that needs a GPU, in one go: `make gpu-check`.

    python benchmarks/gpu_check.py --out DIR [--device cuda] [--only STEP …] [--minutes 9]

Runs on a bare machine with torch, transformers, peft and pyarrow, and these wheels (`WHEELS`):
pydantic, pydantic-core, annotated-types, typing-inspection, ruamel.yaml. mamba-ssm, causal-conv1d
and triton are used where they are importable; where not, the rows that need them say so.

Each step writes DIR/STEP.json as it ends: its figures, or why there are none. A step that there is
no time left for is written as not run. `--small` is a trial of the script itself at toy sizes, on
any device; its figures mean nothing and say so.

Exit codes: 0 every step ran and held, 1 one did not, 3 there is no such device or no such wheel.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

if TYPE_CHECKING:
    from collections.abc import Callable

WHEELS = ("pydantic", "pydantic_core", "annotated_types", "typing_inspection", "ruamel.yaml")
OPTIONAL = ("mamba_ssm", "causal_conv1d", "triton")
OK, FAILED, NOT_RUN = "ok", "failed", "not run"


@dataclass(frozen=True)
class Check:
    """What the steps are told.

    Attributes:
        device: "cuda", "cuda:N" or "cpu".
        small: whether sizes are toys.
        deadline_s: until when, by time.monotonic.
        say: prints a line of progress.
    """

    device: str
    small: bool
    deadline_s: float
    say: Callable[[str], None] = field(default=print)

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.deadline_s - time.monotonic()


def main() -> int:
    args = arguments()
    lacking = [name for name in WHEELS if not importable(name)]
    if lacking:
        print(f"this machine lacks {', '.join(lacking)}; install these wheels: {', '.join(WHEELS)}")
        return 3
    import torch

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("torch sees no GPU here; `--device cpu --small` tries the script itself.")
        return 3
    import gpu_steps

    args.out.mkdir(parents=True, exist_ok=True)
    check = Check(args.device, args.small, time.monotonic() + 60 * args.minutes)
    machine = environment(args.device) | {"small": args.small, "command": " ".join(sys.argv[1:])}
    steps = [s for s in gpu_steps.STEPS if not args.only or s.__name__ in args.only]
    unknown = set(args.only or ()) - {s.__name__ for s in gpu_steps.STEPS}
    if unknown:
        known = ", ".join(s.__name__ for s in gpu_steps.STEPS)
        print(f"--only: no step is called {', '.join(sorted(unknown))}. Known: {known}.")
        return 2
    results = [run(step, check, machine, args.out) for step in steps]
    print()
    for result in results:
        print(
            f"{result['step']:12}{result['status']:9}{result['seconds']:7.1f} s  {result['told']}"
        )
    return 0 if all(r["status"] == OK for r in results) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all steps together")
    parser.add_argument("--only", nargs="+", metavar="STEP")
    parser.add_argument("--small", action="store_true", help="toy sizes: tries the script")
    return parser.parse_args()


def run(
    step: Callable[[Check], dict[str, Any]], check: Check, about: dict[str, Any], out: Path
) -> dict[str, Any]:
    """Run one step and write what it found, or why it found nothing."""
    name, needs_s = step.__name__, getattr(step, "needs_s", 0)
    result: dict[str, Any] = {"step": name, "status": NOT_RUN, "seconds": 0.0}
    start = time.monotonic()
    if not check.small and check.left_s < needs_s:
        result["told"] = f"no time: it takes about {needs_s} s and {check.left_s:.0f} s are left"
    else:
        check.say(f"== {name}")
        try:
            found = step(check)
            wrong = found.pop("wrong", [])
            result |= found | {"status": FAILED if wrong else OK}
            result["told"] = "; ".join(wrong) or found.get("told", "")
        except Exception as error:  # noqa: BLE001 - the next step is not to blame
            result |= {"status": FAILED, "told": f"{type(error).__name__}: {error}"}
            result["traceback"] = traceback.format_exc()
            check.say(result["traceback"])
        result["seconds"] = time.monotonic() - start
    path = out / f"{name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(about | result, indent=1) + "\n")
    part.replace(path)
    return result


def importable(name: str) -> bool:
    """Tell whether a module is there, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def environment(device: str) -> dict[str, Any]:
    """Say what machine and which versions this is."""
    import torch
    import transformers

    cuda = device.startswith("cuda")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "driver": nvidia("driver_version"),
        "clocks_mhz": nvidia("clocks.sm,clocks.mem"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "optional": {name: importable(name) for name in OPTIONAL},
        "commit": commit(),
        "processors": os.cpu_count(),
    }


def nvidia(query: str) -> str | None:
    """Ask nvidia-smi; None where there is none."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def commit() -> str | None:
    """Give the commit that runs, with a mark if the tree has changes; None without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    sys.exit(main())
