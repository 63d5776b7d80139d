"""What the hand can reach, and what it owes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from chaos.drivers import Driver, Drivers
    from chaos.lab import Lab

# A cell that lost this many attempts is left alone: its budget is for the machine's own faults.
_MOST_HITS = 2


@dataclass
class World:
    """What the hand can reach.

    Attributes:
        damaged: names of the attempt files that were damaged.
        later: what is to be mended, and when: (monotonic seconds, text, how).
        hits: attempts lost by cell label.
    """

    lab: Lab
    drivers: Drivers
    rng: random.Random
    damaged: set[str] = field(default_factory=set)
    later: list[tuple[float, str, Callable[[], None]]] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.drivers.folder

    @property
    def driver(self) -> Driver:
        """The driver that counts."""
        return self.drivers.last

    def mend_in(self, seconds: float, text: str, how: Callable[[], None]) -> None:
        """Note what is to be mended."""
        self.later.append((time.monotonic() + seconds, text, how))

    def mend(self, *, everything: bool = False) -> list[str]:
        """Mend what is due, start hosts that went by themselves, and say what."""
        now, told = time.monotonic(), []
        for item in list(self.later):
            due_s, text, how = item
            if everything or due_s <= now:
                self.later.remove(item)
                how()
                told.append(text)
        for host in self.lab.hosts.values():
            if not host.up and not host.away:
                self.lab.boot(host.name)
                told.append(f"{host.name} had gone and is started again")
        return told

    def spared(self, label: str) -> bool:
        """Whether a cell has been hit often enough."""
        return self.hits[label] >= _MOST_HITS
