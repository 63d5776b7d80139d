"""Which ratio makes a model that drops tokens cost what another model costs.

Tokens are whole, so that the count goes in steps: the nearest step is taken, and how far off it is
is told. Nothing is cut to fit.

Source: Simba, arXiv:2505.20698, compares models "with similar FLOPs"; matching them is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from ssmbench.errors import MethodError
from ssmbench.models.token_flops import Drop, Head, count

if TYPE_CHECKING:
    from ssmbench.models.description import Description

Status = Literal["exact", "floor", "infeasible"]

Schedule = Callable[[float], Drop]
"""From a ratio, or from a power, to what is dropped."""

# How far off the nearest step may be, as a fraction of the target: one token of one layer is more
# than twice this only where layers times prompt are below fifty.
TOLERANCE = 0.01
# Ratios and powers are whole numbers of millionths: what a cell's identity holds.
STEPS = 10**6
# What is gone at the last layer where no ratio of the schedule as asked is enough, and the power
# schedule's power is found instead: the paper's main setting.
FLOOR_RATIO = 0.9


class Match(NamedTuple):
    """What comes nearest to a target.

    Attributes:
        ratio: fraction of the prompt gone at the last layer, in [0, 1).
        power: of the power schedule, where that was needed; else None.
        flops: of one input.
        relative_error: flops / target − 1.
        status: "exact": the schedule as asked reaches the target, and its nearest step is within
            `TOLERANCE`. "floor": it does not; with the ratio held at `FLOOR_RATIO`, a power of
            the power schedule does. "infeasible": neither does, or the latter was not allowed;
            this is the nearest that can be reached.
    """

    ratio: float
    power: float | None
    flops: int
    relative_error: float
    status: Status


def match_flops(
    description: Description,
    target: int,
    *,
    schedule: Schedule,
    power: Schedule | None = None,
    prompt: int = 1000,
    answer: int = 10,
    head: Head = "all",
) -> Match:
    """Find the ratio at which one input costs `target` FLOPs.

    Args:
        description: the model that drops tokens.
        target: FLOPs, above 0.
        schedule: what is dropped at a ratio; may raise MethodError where a ratio is too high.
        power: what is dropped at `FLOOR_RATIO` and a power, tried where `schedule` fails; None
            where only the schedule as asked will do.
        prompt: tokens.
        answer: tokens after the prompt.
        head: positions that the head is counted on.

    Raises:
        MethodError: the method can drop no tokens of this model at all.
    """

    def flops(drop: Drop | None) -> int:
        return count(description, prompt=prompt, answer=answer, drop=drop).total(head)

    def judged(k: int, drop: Drop | None, status: Status, *, power: bool = False) -> Match:
        found = flops(drop)
        error = found / target - 1
        ratio, p = (FLOOR_RATIO, k / STEPS) if power else (k / STEPS, None)
        return Match(ratio, p, found, error, status if abs(error) <= TOLERANCE else "infeasible")

    dense = flops(None)
    if dense <= target:
        return judged(0, None, "exact" if dense == target else "infeasible")
    found = _nearest(lambda k: flops(schedule(k / STEPS)), target, cheap=_highest(schedule), dear=1)
    by_ratio = judged(found.k, schedule(found.k / STEPS), "exact" if found.met else "infeasible")
    if by_ratio.status == "exact" or power is None:
        return by_ratio
    found = _nearest(lambda k: flops(power(k / STEPS)), target, cheap=1, dear=STEPS)
    status: Status = "floor" if found.met else "infeasible"
    by_power = judged(found.k, power(found.k / STEPS), status, power=True)
    if by_power.status == "floor":
        return by_power
    return min(by_ratio, by_power, key=lambda match: abs(match.relative_error))


class _Found(NamedTuple):
    """A whole number, and whether the target lies between it and its neighbour."""

    k: int
    met: bool


def _nearest(flops: Callable[[int], int], target: int, *, cheap: int, dear: int) -> _Found:
    """Find the whole number whose FLOPs are nearest to the target, by bisection.

    Args:
        flops: of a number; they grow from `cheap` to `dear`.
        target: FLOPs.
        cheap: the end that costs least, which is the nearest if that is more than the target.
        dear: the end that costs most, likewise.
    """
    for end, beyond in ((cheap, flops(cheap) - target), (dear, target - flops(dear))):
        if beyond >= 0:
            return _Found(end, beyond == 0)
    while abs(dear - cheap) > 1:
        middle = (cheap + dear) // 2
        if flops(middle) > target:
            dear = middle
        else:
            cheap = middle
    return _Found(min(cheap, dear, key=lambda k: abs(flops(k) - target)), met=True)


def _highest(schedule: Schedule) -> int:
    """Find the highest ratio that a method allows."""
    schedule(1 / STEPS)
    allowed, refused = 1, STEPS
    if _allows(schedule, STEPS - 1):
        return STEPS - 1
    while refused - allowed > 1:
        middle = (allowed + refused) // 2
        if _allows(schedule, middle):
            allowed = middle
        else:
            refused = middle
    return allowed


def _allows(schedule: Schedule, k: int) -> bool:
    try:
        schedule(k / STEPS)
    except MethodError:
        return False
    return True
