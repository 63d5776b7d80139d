"""`make bench`: every benchmark of the table of targets that this machine can run.

    python benchmarks/bench.py [--data DIR] [--quick] [--only NAME …]

Each is a script of its own in a process of its own, one after the other; its figures go to
benchmarks/results/NAME.json with the machine, the versions, the command and the date. From those
docs/performance.md is written. What needs a GPU is not here: `make gpu-check`.

With `--quick` each script only shows that it works, on next to nothing; its figures go to
build/bench and nowhere else.

Exit codes: 0 all ran, 1 one failed, 3 one needs what is not there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import performance

HERE = Path(__file__).parent
ROOT = HERE.parent


@dataclass(frozen=True)
class Bench:
    """One script with its arguments; its result file is NAME.json.

    Attributes:
        name: of the result file.
        script: in this folder.
        arguments: but for `--data`, `--quick` and `--out`.
        minutes: about how long it takes on two idle cores.
        needs_data: whether it scores real documents.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    minutes: float
    needs_data: bool = False


_FEW = ("--tasks", "arc_challenge", "--shots", "25", "--limit", "50", "--hflm", "6")
BENCHES = (
    Bench("mixers_cpu", "mixers.py", (), 2),
    Bench("continuation_cpu", "continuation.py", (), 1),
    Bench("half_cpu", "half.py", (), 1),
    Bench("processes_cpu", "processes.py", (), 3),
    Bench("simba_time_cpu", "simba_time.py", ("--lengths", "2048", "--threads", "1"), 4),
    Bench("six_tasks_mamba2_cpu", "six_tasks.py", ("--model", "mamba2-130m"), 8, needs_data=True),
    Bench("six_tasks_mamba_cpu", "six_tasks.py", ("--model", "mamba-130m"), 8, needs_data=True),
    Bench("arc_challenge_25_cpu", "six_tasks.py", (*_FEW, "--batch-size", "4"), 8, needs_data=True),
)


def main() -> int:
    args = arguments()
    folder = ROOT / "build/bench" if args.quick else HERE / "results"
    chosen = [bench for bench in BENCHES if not args.only or bench.name in args.only]
    ended: dict[str, str] = {}
    for bench in chosen:
        if bench.needs_data and args.data is None:
            ended[bench.name] = "not run: needs --data DIR, a folder of local task data"
            continue
        print(f"\n== {bench.name}", flush=True)
        start = time.monotonic()
        code = subprocess.run(command(bench, args, folder), check=False).returncode
        minutes = (time.monotonic() - start) / 60
        ended[bench.name] = f"{'done' if code == 0 else 'failed'} after {minutes:.1f} minutes"
    print()
    for name, how in ended.items():
        print(f"{name:24}{how}")
    if args.quick:
        print("\nA trial: these figures mean nothing.")
        for name, reached in performance.read(folder).items():
            print(f"{name:48}{reached.ratio['median']:8.2f}")
    else:
        performance.write()
    if any(how.startswith("failed") for how in ended.values()):
        return 1
    return 3 if any(how.startswith("not run") for how in ended.values()) else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of local task data")
    parser.add_argument("--quick", action="store_true", help="see that every script works")
    names = [bench.name for bench in BENCHES]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    return parser.parse_args()


def command(bench: Bench, args: argparse.Namespace, folder: Path) -> list[str]:
    """Give the command line of one benchmark."""
    words = [sys.executable, str(HERE / bench.script), *bench.arguments]
    if bench.needs_data:
        words += ["--data", str(args.data)]
    if args.quick:
        words.append("--quick")
    return [*words, "--out", str(folder / f"{bench.name}.json")]


if __name__ == "__main__":
    sys.exit(main())
