"""`python -m chaos`: play the deck again and again until the time is up."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import chaos
import ssmbench
from chaos import lab as labs
from chaos import table
from chaos.faults import DECK, Fault
from chaos.lab import Lab
from chaos.trial import Result, Trial
from chaos.watch import Numbers, numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

GRID = """
models: [zoo-mamba-s, zoo-mamba2, zoo-phi-mamba]
methods:
  - {method: random, ratio: [0.2, 0.3, 0.4, 0.5, 0.6]}
  - {method: magnitude, ratio: [0.2, 0.4, 0.6]}
  - {method: wanda, ratio: [0.3, 0.6]}
suites:
  - {suite: tinyworld, n: 20}
  - {suite: perplexity, data: tinyworld, length: 256}
calibration: {samples: 4, length: 64}
isolate: false
"""
SHORT_GRID = GRID.replace(", zoo-mamba2, zoo-phi-mamba", "")
SHORT = ("kill worker", "kill node", "kill driver", "damage file", "second driver")
# No fault in the last minutes: a run must come to its end.
_CALM_S, _FAULTS_A_RUN, _PAUSE_S = 120.0, (5, 10), (1.0, 7.0)
_MOST_SHORT_RUNS, _LONGEST_CALM_S = 3, 1200.0


def main() -> int:
    """Give 0 where nothing was lost, counted twice, different or otherwise wrong."""
    options = _options()
    reason = "asked for" if options.plain else labs.namespaces_allowed()
    if reason is None and options.base is None:
        labs.enter_namespaces([sys.executable, "-m", "chaos", *sys.argv[1:]])
    began_s = time.monotonic()
    skipped = {f.name: f"skipped: {reason}" for f in DECK if reason and f.needs_namespaces}
    if options.only:
        skipped |= {f.name: "skipped: --only" for f in DECK if f.name not in options.only}
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    base = Path(options.base or tempfile.mkdtemp(prefix="sc", dir="/tmp"))
    lab, result = Lab(base, namespaces=reason is None), Result()
    hand = _Hand(random.Random(seed), skipped, short=options.short, only=options.only)
    say = partial(_say, began_s)
    say(f"seed {seed}")
    for name, why in skipped.items():
        say(f"{name} {why}")
    try:
        _play(options, lab, hand, result, say)
    except KeyboardInterrupt:
        result.wrong.append("interrupted")
    finally:
        left_behind = lab.close()
    result.wrong += [f"a process outlives the lab: {line}" for line in left_behind]
    _sum_up(options, result, skipped, seed, minutes=(time.monotonic() - began_s) / 60)
    return 0 if result.is_good else 1


def _play(
    options: argparse.Namespace,
    lab: Lab,
    hand: _Hand,
    result: Result,
    say: Callable[[str], None],
) -> None:
    """Start the lab, and disturb one run after another until the time is up."""
    until_s = time.monotonic() + 60 * options.minutes - _CALM_S
    expected = _undisturbed(lab, SHORT_GRID if options.short else GRID)
    say(f"three hosts are up; {len(expected)} suites are to come out the same every time")
    while hand.goes_on(result) if options.short else time.monotonic() < until_s:
        folder = lab.base / "runs" / f"run{result.n_runs + 1}"
        trial = Trial(lab, lab.base / "grid.yaml", folder, expected, hand.rng, say, hand.pause_s)
        hand.take_back(trial.run(hand.deal(), until_s=until_s, result=result))
        if options.keep is not None and not result.is_good:
            shutil.copytree(lab.base / "logs", options.keep / "logs", dirs_exist_ok=True)
            shutil.copytree(folder, options.keep / folder.name, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # Room for the next.


def _say(began_s: float, text: str) -> None:
    sys.stdout.write(f"{time.monotonic() - began_s:7.1f}  {text}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=chaos.__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, help="of the hand; drawn by default")
    parser.add_argument("--short", action="store_true", help="one small run, one fault of a kind")
    parser.add_argument("--only", action="append", choices=[f.name for f in DECK], help="a kind")
    parser.add_argument("--plain", action="store_true", help="no namespaces, even where allowed")
    parser.add_argument("--write", type=Path, help="a page whose table is to be replaced")
    parser.add_argument("--keep", type=Path, help="a folder for runs and logs of what went wrong")
    parser.add_argument("--base", help=argparse.SUPPRESS)
    return parser.parse_args()


class _Hand:
    """Deals from a shuffled deck, so that every kind has its turn."""

    def __init__(
        self,
        rng: random.Random,
        skipped: Mapping[str, str],
        *,
        short: bool,
        only: Sequence[str] | None,
    ) -> None:
        self.rng, self._short = rng, short
        self._kinds = [f for f in DECK if f.name not in skipped]
        by_name = {fault.name: fault for fault in self._kinds}
        names = only or SHORT if short else ()
        self._deck: list[Fault] = [by_name[name] for name in names]
        self.pause_s = (0.2, 1.0) if short else _PAUSE_S

    def goes_on(self, result: Result) -> bool:
        """Whether the small form still has cards; a run may end before all are played."""
        return bool(self._deck) and result.n_runs < _MOST_SHORT_RUNS

    def deal(self) -> list[Fault]:
        """Give the faults of the next run, in order."""
        if self._short:
            dealt, self._deck = self._deck, []
            return dealt
        n = self.rng.randint(*_FAULTS_A_RUN)
        while len(self._deck) < n:
            fresh = [fault for fault in self._kinds for _ in range(fault.cards)]
            self.rng.shuffle(fresh)
            self._deck += fresh
        dealt, self._deck = self._deck[:n], self._deck[n:]
        return dealt

    def take_back(self, left: Sequence[Fault]) -> None:
        """Put back what was not played, to come first."""
        self._deck = [*left, *self._deck]


def _undisturbed(lab: Lab, grid: str) -> Numbers:
    """Start the hosts, and meanwhile run the grid once in one process."""
    path, folder = lab.base / "grid.yaml", lab.base / "calm"
    path.write_text(grid)
    command = [sys.executable, "-m", "ssmbench", "run", str(path), "--out", str(folder)]
    calm = subprocess.Popen(
        [*command, "--inline", "--plain"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=lab.environment,
    )
    try:
        lab.start()
        printed = calm.communicate(timeout=_LONGEST_CALM_S)[0]
    finally:
        calm.kill()
    if calm.returncode != 0:
        raise RuntimeError(f"the undisturbed run failed:\n{printed}")
    return numbers({name: frame.lazy() for name, frame in ssmbench.results(folder).items()})


def _sum_up(
    options: argparse.Namespace,
    result: Result,
    skipped: Mapping[str, str],
    seed: int,
    *,
    minutes: float,
) -> None:
    command = f"make chaos MINUTES={options.minutes:g} SEED={seed}"
    if options.short:
        command = f"python -m chaos --short --seed {seed}"
    text = table.markdown(result, command=command, minutes=minutes, skipped=skipped)
    for wrong in result.wrong:
        sys.stdout.write(f"WRONG: {wrong}\n")
    sys.stdout.write(f"\n{text}\n")
    if options.write is not None:
        table.fill_in(options.write, text)
    sys.stdout.write(f"{result.last_line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
