"""Tests and intervals for paired differences: McNemar, Tango, Student, MOVER and Holm.

**One accuracy against another**, both 0 or 1 a document. Of n documents g were gained (wrong
before, right after) and l lost; the difference is (g − l) / n.

* p is McNemar's exact test, two-sided: under no difference, g of g + l is Binomial(g + l, ½).
  (McNemar, Psychometrika 12, 1947; exact: Fagerland, Lydersen & Laake, BMC Med. Res. Methodol.
  13:91, 2013.)
* The interval is Tango's (Stat. Med. 17, 1998): all differences Δ that the score test keeps,
  |g − l − nΔ| ≤ z · sqrt(n · (2q + Δ(1 − Δ))), q the likeliest chance of a loss if Δ were true,
  the larger root of 2n·q² + (−g − l + (2n − g + l)Δ)·q − lΔ(1 − Δ) = 0. It has a width where
  no document changed: ± z² / (n + z²), about 3.8 / n.
* The exact test rules: where it keeps zero and Tango's interval, which is about the score test,
  does not, the interval reaches to zero. (The other way round does not occur.) So p < 0.05 says
  the same as an interval without zero, and the interval is never narrower than Tango's.

**A mean over tasks** of independent documents takes its limits from those of its k tasks by
MOVER (Zou & Donner, Stat. Med. 27, 2008): low = mean − sqrt(Σ (dᵢ − lowᵢ)²) / k, high likewise.

**p of an interval** that is not a test's: Student's p of t₉₅ · |difference| / h, where h is the
distance from the difference to the limit on zero's side and t₉₅ Student's 97.5 % quantile.
It is below 0.05 where zero is outside, and Student's own p where the interval is Student's.

**Holm** (Scand. J. Stat. 6, 1979): of m p-values in order, the i-th is multiplied by m − i + 1,
none may be smaller than one before it, or larger than 1. It bounds the chance of one or more
false positives in the family by 0.05, whatever hangs together in it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Reals = NDArray[np.float64]
    Counts = NDArray[np.int64]

Z95 = 1.959963984540054
LEVEL = 0.05
_NORMAL_FROM = 100  # Degrees of freedom from which Student's distribution is taken as normal.
_HALVINGS = 50


def changed(gained: Counts, lost: Counts, n: int) -> tuple[Reals, Reals, Reals]:
    """Compare accuracies on the same documents.

    Args:
        gained: how many documents became right, one number a comparison.
        lost: how many became wrong.
        n: documents, changed or not.

    Returns:
        The 95 % interval's low and high ends, in [−1, 1], and p.
    """
    low, high = tango(gained, lost, n)
    p = mcnemar(gained, lost)
    kept = p >= LEVEL
    return np.where(kept, np.minimum(low, 0), low), np.where(kept, np.maximum(high, 0), high), p


def mcnemar(gained: Counts, lost: Counts) -> Reals:
    """Give McNemar's exact two-sided p, in (0, 1], of each pair of counts."""
    pairs = np.stack([np.minimum(gained, lost), gained + lost], axis=1)
    kinds, place = np.unique(pairs, axis=0, return_inverse=True)
    log_factorial = np.concatenate(
        ([0.0], np.cumsum(np.log(np.arange(1, kinds[:, 1].max(initial=0) + 1))))
    )
    ps = np.empty(len(kinds))
    for i, (fewer, total) in enumerate(kinds):
        some = np.arange(fewer + 1)
        ways = log_factorial[total] - log_factorial[some] - log_factorial[total - some]
        ps[i] = min(1.0, 2 * float(np.exp(ways - total * math.log(2)).sum()))
    found: Reals = ps[place.ravel()]
    return found


def tango(gained: Counts, lost: Counts, n: int) -> tuple[Reals, Reals]:
    """Give the ends of Tango's 95 % score interval for (gained − lost) / n."""
    difference = (gained - lost) / n
    ends = []
    for end in (-1.0, 1.0):
        # Both ends by halving: the statistic falls steadily as Δ grows.
        inside, outside = difference.copy(), np.full_like(difference, end)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            keeps = _kept(middle, gained, lost, n)
            inside, outside = np.where(keeps, middle, inside), np.where(keeps, outside, middle)
        ends.append(outside)
    return ends[0], ends[1]


def _kept(delta: Reals, gained: Counts, lost: Counts, n: int) -> NDArray[np.bool_]:
    """Say whether the score test keeps these differences."""
    linear = -gained - lost + (2 * n - gained + lost) * delta
    constant = -lost * delta * (1 - delta)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0))
    loss = (root - linear) / (4 * n)
    variance = n * np.maximum(2 * loss + delta * (1 - delta), 0)
    kept: NDArray[np.bool_] = (gained - lost - n * delta) ** 2 <= Z95**2 * variance
    return kept


def mover(values: Reals, low: Reals, high: Reals) -> tuple[float, float]:
    """Give the 95 % interval of a mean of independent differences from theirs."""
    mean, k = float(values.mean()), len(values)
    below = math.sqrt(float(((values - low) ** 2).sum())) / k
    above = math.sqrt(float(((high - values) ** 2).sum())) / k
    return mean - below, mean + above


def p_of_interval(value: float, low: float, high: float, freedom: float) -> float:
    """Give p of a difference from its 95 % interval: see the module.

    Args:
        value: the difference.
        low: the interval's lower end.
        high: its upper end.
        freedom: degrees of freedom, 1 or more; infinity for the normal distribution.
    """
    width = value - low if value > 0 else high - value
    if value == 0:
        return 1.0
    return student_p(student_95(freedom) * abs(value) / width, freedom) if width else 0.0


def student_p(t: float, freedom: float) -> float:
    """Give Student's two-sided p, in [0, 1], of t ≥ 0 with whole degrees of freedom.

    Abramowitz & Stegun 26.7.3 and 26.7.4.
    """
    if freedom > _NORMAL_FROM:
        return math.erfc(t / math.sqrt(2))
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0
    for i in range(1, int(freedom) // 2 + 1):
        total += term
        term *= cosine**2 * (2 * i / (2 * i + 1) if odd else (2 * i - 1) / (2 * i))
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1 - inside))


@lru_cache(maxsize=256)
def student_95(freedom: float) -> float:
    """Give the t that Student's distribution exceeds, with either sign, in 5 % of all cases."""
    if freedom > _NORMAL_FROM:
        return Z95
    low, high = Z95, 13.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, freedom) > LEVEL else (low, middle)
    return high


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Adjust the p-values of one family; None is no test and does not count."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[i] = largest
    return adjusted
