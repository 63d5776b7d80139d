"""What is left to do of a plan, why, and in which order: the longest first."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from ssmbench.plan.cells import Cell, Entry, Suite, identity_of
from ssmbench.plan.cost import Costs
from ssmbench.plan.history import History, Records
from ssmbench.plan.labels import training_label

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from ssmbench.plan.history import History

State = Literal["to do", "failed", "done"]


@dataclass(frozen=True)
class Decision:
    """One cell of a plan.

    Attributes:
        entry: the cell, all suites wanted of it, and what it may use.
        suites_to_do: those without committed numbers, failed ones included.
        state: "failed" if one of those has failed before.
        reason: why it is to do, or how it failed; empty when done.
        flops: estimated, of what is to do; None where the architecture is unknown.
        seconds: likewise.
    """

    entry: Entry
    suites_to_do: tuple[Suite, ...]
    state: State
    reason: str
    flops: int | None
    seconds: float | None

    @property
    def text(self) -> str:
        """State and reason as one phrase: `to do: ratio 0.5 is new`, `failed before: gpu_oom`."""
        state = "failed before" if self.state == "failed" else self.state
        return f"{state}: {self.reason}" if self.reason else state


def decide(entries: Sequence[Entry], history: History) -> list[Decision]:
    """Decide for every cell what is to do: the longest first, then what is done.

    Takes time in proportion to the cells of the plan and of the history.

    Args:
        entries: the plan.
        history: what the run folder holds.
    """
    records = Records(history)
    costs, past = Costs(history, records), _Past(history, records)
    decisions = [_decide(entry, history, costs, past) for entry in entries]
    return sorted(decisions, key=_order)


def _order(decision: Decision) -> tuple[bool, float]:
    # What cannot be estimated may be the longest.
    seconds = math.inf if decision.seconds is None else decision.seconds
    return not decision.suites_to_do, -seconds


def _decide(entry: Entry, history: History, costs: Costs, past: _Past) -> Decision:
    cell = entry.cell
    missing = tuple(s for s in entry.suites if (cell.id, s.id) not in history.committed)
    if not missing:
        return Decision(entry, (), "done", "", 0, 0.0)
    failed = [history.failed[key] for s in missing if (key := (cell.id, s.id)) in history.failed]
    seconds = [costs.seconds(cell, [s], entry.resources_for(s.kind)) for s in missing]
    return Decision(
        entry=entry,
        suites_to_do=missing,
        state="failed" if failed else "to do",
        reason=_join(f.error_class for f in failed) if failed else past.news(cell, missing),
        flops=costs.flops(cell, missing),
        seconds=None if None in seconds else sum(s for s in seconds if s is not None),
    )


def _join(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


class Level(NamedTuple):
    """One respect in which a cell can be new, and how to say so."""

    value: Hashable
    news: str


class _Past:
    """Says what is new about a cell, compared with all cells that a run folder knows.

    Cells are compared respect by respect, from the model down to the seed: the first in which
    no past cell that agrees so far has the same value is what is new.
    """

    def __init__(self, history: History, records: Records) -> None:
        self._history = history
        self._records = records

    @cached_property
    def _names(self) -> set[str]:
        cells = map(self._records.cell, self._history.cells)
        return {cell.model.name for cell in cells if cell}

    @cached_property
    def _seen(self) -> set[tuple[Hashable, ...]]:
        cells = map(self._records.cell, self._history.cells)
        return {prefix for cell in cells if cell for prefix in _prefixes(_levels(cell))}

    @cached_property
    def _done(self) -> dict[str, list[Suite]]:
        done: dict[str, list[Suite]] = defaultdict(list)
        for cell_id, suite_id in self._history.committed:
            suite = self._records.suite(suite_id)
            if suite:
                done[cell_id].append(suite)
        return done

    def news(self, cell: Cell, missing: Sequence[Suite]) -> str:
        """Say why these suites of a cell are to do."""
        if not self._history.cells:
            return "not run yet"
        if cell.id in self._history.cells:
            return _join(self._suite_news(cell, suite) for suite in missing)
        levels = _levels(cell)
        if (levels[0].value,) not in self._seen and cell.model.name in self._names:
            return f"model {cell.model.name} has changed"
        fresh = (i for i, prefix in enumerate(_prefixes(levels)) if prefix not in self._seen)
        first = next(fresh, None)
        return "this combination is new" if first is None else levels[first].news

    def _suite_news(self, cell: Cell, suite: Suite) -> str:
        if suite.id in self._history.wanted.get(cell.id, ()):
            return f"suite {suite.name} is not finished"
        now = identity_of(suite)
        for before in self._done.get(cell.id, ()):
            if before.name == suite.name:
                was = identity_of(before)
                keys = dict.fromkeys((*now, *was))
                changed = ", ".join(key for key in keys if now.get(key) != was.get(key))
                return f"suite {suite.name} is new with another {changed}"
        return f"suite {suite.name} is new"


def _prefixes(levels: Sequence[Level]) -> list[tuple[Hashable, ...]]:
    values = tuple(level.value for level in levels)
    return [values[: i + 1] for i in range(len(values))]


def _levels(cell: Cell) -> list[Level]:
    """Describe a cell from the respect that changes most (the model) to the least (the seed)."""
    model, steps, calibration = cell.model, cell.steps, cell.calibration
    params = json.dumps([dict(s.params) for s in steps], sort_keys=True)
    shown = ", ".join(f"{k}={v}" for s in steps for k, v in s.params.items()) or "none"
    text, data = None, "none"
    if calibration:
        text = (calibration.data, calibration.version, calibration.samples, calibration.length)
        data = f"{calibration.data}, {calibration.samples} windows of {calibration.length}"
    tuned = cell.fine_tune
    versions = tuple(s.version for s in steps)
    seeds = (cell.seed, calibration.seed if calibration else None)
    return [
        Level((model.fingerprint, model.tokenizer_fingerprint), f"model {model.name} is new"),
        Level(cell.dtype, f"dtype {cell.dtype} is new"),
        Level(cell.method, f"method {cell.method} is new"),
        Level(versions, f"method {cell.method} has a new version"),
        Level(params, f"parameters of {cell.method} are new: {shown}"),
        Level(text, f"calibration is new: {data}"),
        Level(tuned.kind, f"fine-tuning {tuned.kind} is new"),
        Level(
            json.dumps(dict(tuned.params), sort_keys=True),
            f"fine-tuning is new: {training_label(tuned, cell.dtype)}",
        ),
        Level(tuple(s.ratio for s in steps), f"ratio {cell.ratio:g} is new"),
        Level(seeds, f"seed {cell.seed} is new"),
    ]
