"""One run of the grid, disturbed, and what became of it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import ssmbench
from chaos.drivers import Drivers
from chaos.watch import Key, Numbers, Watcher, commits, numbers, wait_until
from chaos.world import World

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from chaos.faults import Fault
    from chaos.lab import Lab

# From the last fault to the end of the run: a lost node, and every cell once more.
_LONGEST_S = 300.0


@dataclass
class Result:
    """Counts, over all runs; `wrong` holds everything that must not be, in words."""

    faults: Counter[str] = field(default_factory=Counter)
    n_runs: int = 0
    n_cells: int = 0
    n_drivers: int = 0
    n_early: int = 0
    n_reads: int = 0
    lost: int = 0
    duplicated: int = 0
    differing: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def last_line(self) -> str:
        """What the command ends with."""
        return (
            f"faults {self.faults.total()}, cells {self.n_cells}, lost {self.lost}, "
            f"duplicated {self.duplicated}, differing {self.differing}"
        )

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, counted twice, different or otherwise wrong."""
        return not (self.lost or self.duplicated or self.differing or self.wrong)


@dataclass
class Trial:
    """One run. `hand` gives the next fault, or None when it has had enough."""

    lab: Lab
    grid: Path
    folder: Path
    expected: Numbers
    rng: random.Random
    say: Callable[[str], None]
    pause_s: tuple[float, float]

    def run(self, cards: Sequence[Fault], *, until_s: float, result: Result) -> list[Fault]:
        """Start the grid, play the cards, wait for the end, and check everything.

        Args:
            cards: the faults to inject, in order; one that finds nothing to harm waits.
            until_s: the monotonic time after which no more are played.
            result: is added to.

        Returns:
            The cards that were not played.
        """
        drivers = Drivers(self.lab, self.grid, self.folder)
        world = World(self.lab, drivers, self.rng)
        watcher = Watcher(self.folder, self.expected, world.damaged)
        watcher.start()
        drivers.start()
        try:
            left = self._disturb(world, list(cards), until_s, result)
        finally:
            for text in world.mend(everything=True):
                self.say(text)
            drivers.settle() if drivers.last.code == 0 else drivers.end()
            watcher.stop()
        self._check(world, watcher, result)
        return left

    def _disturb(
        self, world: World, cards: list[Fault], until_s: float, result: Result
    ) -> list[Fault]:
        next_s = time.monotonic() + self.rng.uniform(*self.pause_s)
        deadline_s = time.monotonic() + _LONGEST_S
        while not world.drivers.look():
            time.sleep(0.1)
            for text in world.mend():
                self.say(text)
            now = time.monotonic()
            if cards and now < until_s:
                deadline_s = now + _LONGEST_S
                if now >= next_s and (played := self._play(world, cards, result)):
                    cards.remove(played)
                    next_s = time.monotonic() + self.rng.uniform(*self.pause_s)
            elif not world.later and now > deadline_s:
                world.drivers.strange.append(
                    f"the run did not end:\n{world.driver.printed[-3000:]}"
                )
                break
        return cards

    def _play(self, world: World, cards: Sequence[Fault], result: Result) -> Fault | None:
        """Play the first card that finds something to harm."""
        for fault in cards:
            told = fault.does(world)
            if told is not None:
                result.faults[fault.name] += 1
                self.say(f"{fault.name}: {told}")
                return fault
        return None

    def _check(self, world: World, watcher: Watcher, result: Result) -> None:
        """Compare the folder with the run that nothing happened to."""
        counted, found = self._contents(result)
        lost = [key for key in self.expected if key not in counted]
        twice = [key for key, n in Counter(counted).items() if n > 1]
        other = [k for k in self.expected if k in counted and found.get(k) != self.expected[k]]
        other += [key for key in found if key not in self.expected]
        wrong = [*watcher.seen, *world.drivers.strange]
        if not wait_until(lambda: not self.lab.attempts(), 60):
            wrong.append(f"attempts outlive their run: {self.lab.attempts()}")
        for text in wrong:
            self.say(f"WRONG: {text}")
        result.n_runs += 1
        result.n_cells += len({cell for cell, _ in self.expected})
        result.n_drivers += len(world.drivers.all)
        result.n_early += world.drivers.n_early
        result.n_reads += watcher.n_reads
        result.lost += len(lost)
        result.duplicated += len(twice)
        result.differing += len(other)
        result.wrong += wrong
        self.say(
            f"{self.folder.name} ended: {len(set(counted))} suites, {len(world.drivers.all)} "
            f"drivers, {watcher.n_reads} looks · so far {result.last_line}"
        )

    def _contents(self, result: Result) -> tuple[list[Key], Numbers]:
        try:
            frames = {k: f.lazy() for k, f in ssmbench.results(self.folder).items()}
            return commits(self.folder), numbers(frames)
        except Exception as error:  # noqa: BLE001 - a folder that cannot be read is the finding
            result.wrong.append(f"the folder cannot be read: {error}")
            return [], {}
