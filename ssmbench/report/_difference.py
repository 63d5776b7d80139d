"""A paired difference: its value, its interval, what it says, and how that is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ssmbench.report._statistics import LEVEL, mover, p_of_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

NOISE = "≈"
_MARKS = {"below": ("▽", "▼"), "above": ("△", "▲")}


@dataclass(frozen=True)
class Difference:
    """Row minus dense row, paired by document: fractions, or nats per token.

    Attributes:
        value: None with a `reason`.
        stderr: over documents, or None for a single document.
        reason: why there is no value.
        interval: the 95 % interval, or None.
        p: two-sided, in [0, 1]; below 0.05 if zero is outside the interval, and only then.
        p_holm: the same after Holm's correction over its family, or None outside of one.
        freedom: degrees of freedom of the interval; infinity for the normal distribution.
    """

    value: float | None
    stderr: float | None = None
    reason: str | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    freedom: float = math.inf

    @property
    def verdict(self) -> str:
        """Tell `below`, `above` or `unclear` (zero is inside); empty without an interval."""
        if self.interval is None:
            return ""
        if self.interval[1] < 0:
            return "below"
        return "above" if self.interval[0] > 0 else "unclear"

    @property
    def holds(self) -> bool:
        """Whether it can be told from zero after Holm's correction too."""
        return self.verdict in _MARKS and self.p_holm is not None and self.p_holm < LEVEL

    @property
    def mark(self) -> str:
        """Tell ▼ or ▲ if it holds, ▽ or △ if only its own interval says so, ≈ if neither does."""
        verdict = self.verdict
        return _MARKS[verdict][self.holds] if verdict in _MARKS else NOISE * bool(verdict)

    @property
    def numbers(self) -> dict[str, float | None]:
        """The plain numbers that go into CSV: diff, low, high, p and p_holm."""
        low, high = self.interval or (None, None)
        return {
            "diff": self.value, "low": low, "high": high, "p": self.p, "p_holm": self.p_holm,
        }  # fmt: skip

    def negated(self) -> Difference:
        """Turn it round: dense row minus row."""
        if self.value is None:
            return self
        turned = None if self.interval is None else (-self.interval[1], -self.interval[0])
        return replace(self, value=-self.value, interval=turned)


def mean_difference(parts: Sequence[Difference]) -> Difference:
    """Average independent differences; without the value of one there is none."""
    values = [p.value for p in parts if p.value is not None]
    if len(values) < len(parts):
        reasons = dict.fromkeys(p.reason for p in parts if p.reason)
        return Difference(None, reason="; ".join(reasons))
    if len(parts) == 1:
        return parts[0]
    value = math.fsum(values) / len(values)
    stderr = mean_stderr([p.stderr for p in parts])
    intervals = [p.interval for p in parts if p.interval is not None]
    if len(intervals) < len(parts):
        return Difference(value, stderr)
    low, high = mover(np.array(values), *np.array(intervals).T)
    freedom = min(p.freedom for p in parts)
    p = p_of_interval(value, low, high, freedom)
    return Difference(value, stderr, interval=(low, high), p=p, freedom=freedom)


def mean_stderr(parts: Sequence[float | None]) -> float | None:
    """Give the standard error of a mean from those of its independent parts."""
    known = [p for p in parts if p is not None]
    if len(known) < len(parts):
        return None
    return math.sqrt(math.fsum(p * p for p in known)) / len(known)
