"""Which machines a task's next attempt keeps away from, and what is said when none is left."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ssmbench.execute import policy
from ssmbench.execute.executor import Demand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ssmbench.execute.executor import Executor, Node
    from ssmbench.execute.health import Health
    from ssmbench.execute.task import Flight, Task

# How often it is said that nothing can run: a cluster may take its time to bring a machine.
REMIND_S = 600.0


class Placing:
    """Turns what is known of machines into demands."""

    def __init__(self, executor: Executor, health: Health, note: Callable[[str], None]) -> None:
        """Place attempts of an executor; `note` tells people."""
        self._executor, self._health, self._note = executor, health, note
        self._reminded_s = -math.inf
        self._waits = False
        self._hosts: dict[str, str] = {}

    def host(self, node: str | None) -> str | None:
        """Give the name of a machine's host, as far as it was ever seen."""
        return None if node is None else self._hosts.get(node)

    def name(self, node: str) -> str:
        """Name a machine for people: its host, and which of the nodes there it is."""
        return f"machine {self._hosts.get(node, 'unknown')} (node {node[:8]})"

    def demand(self, task: Task) -> Demand:
        """Say what the task's next attempt needs; wishes that no machine can meet are dropped."""
        alone = task.kind == "timing"
        if not (self._health.quarantined or task.avoid or task.min_memory_bytes):
            return Demand(task.resources, alone)
        found = self._executor.nodes(task.resources)
        quarantined = frozenset(self._health.quarantined)
        small = frozenset(n.id for n in found if n.memory_bytes < task.min_memory_bytes)
        for avoid in (quarantined | small | task.avoid, quarantined | small):
            if _is_left(found, avoid):
                return Demand(task.resources, alone, avoid)
        if small and task.min_memory_bytes:
            task.min_memory_bytes = 0.0
            task.batch_tokens = policy.halved(task.batch_tokens)
        # Better a suspect machine than none, if it is all that is left.
        only_suspects = bool(found) and not _is_left(found, quarantined)
        return Demand(task.resources, alone, frozenset() if only_suspects else quarantined)

    def is_outdated(self, flight: Flight) -> bool:
        """Whether a waiting attempt may land on a machine in quarantine, or nowhere."""
        if not flight.demand.avoid and not self._health.quarantined:
            return False
        wanted = self.demand(flight.task).avoid
        if wanted == flight.demand.avoid:
            return False
        lands_badly = not (wanted & self._health.quarantined.keys() <= flight.demand.avoid)
        return lands_badly or not self._executor.slots(flight.demand)

    def can_spare(self, node: str, tasks: Iterable[Task]) -> bool:
        """Whether everything that is left to do fits on machines other than this one, too."""
        without = frozenset({*self._health.quarantined, node})
        wanted = {task.resources for task in tasks}
        return all(_is_left(self._executor.nodes(resources), without) for resources in wanted)

    def grow(self, task: Task, node: str | None) -> bool:
        """Ask for a machine with more memory than this one; False if there is none."""
        found = self._executor.nodes(task.resources)
        here = next((n.memory_bytes for n in found if n.id == node), None)
        if here is None:
            return False
        enough = here * policy.MORE_MEMORY
        small = frozenset(n.id for n in found if n.memory_bytes < enough)
        if not _is_left(found, small | self._health.quarantined.keys()):
            return False
        task.min_memory_bytes = enough
        return True

    def look(self, flights: Iterable[Flight], queue: Iterable[Task], now: float) -> None:
        """Learn the machines' names; say if none fits what waits, and if one does again."""
        tasks = {f.task.resources: f.started_s is None for f in flights}
        tasks |= {task.resources: True for task in queue}
        for resources, waits in tasks.items():
            for node in self._executor.nodes(resources):
                self._hosts[node.id] = node.host
            problem = self._executor.check(resources) if waits else None
            if problem is None:
                continue
            if not self._waits or now - self._reminded_s >= REMIND_S:
                self._note(f"waiting for a machine: {problem}. `ssmbench cancel` ends the run.")
                self._waits, self._reminded_s = True, now
            return
        if self._waits:
            self._waits = False
            self._note("a machine that fits is there again")


def _is_left(nodes: Iterable[Node], avoid: frozenset[str]) -> bool:
    return any(node.id not in avoid for node in nodes)
