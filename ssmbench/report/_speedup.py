"""How sure a speed-up is: intervals of a quotient of medians, by resampling the raw times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DRAWS = 2000
# Of fewer repeats the median's spread cannot be told.
LEAST_REPEATS = 5


def speedup_draws(
    times: Sequence[float], dense_times: Sequence[float], *, seed: int = 0
) -> NDArray[np.float64] | None:
    """Draw dense median ÷ median anew from the raw times of both, DRAWS times.

    Args:
        times: seconds of every repeat.
        dense_times: likewise, of the uncompressed model in the same process.
        seed: of the draws.

    Returns:
        (DRAWS,), or None where one of the two has fewer than LEAST_REPEATS repeats.
    """
    if min(len(times), len(dense_times)) < LEAST_REPEATS:
        return None
    draw = np.random.default_rng(seed)
    own, dense = (_medians(np.asarray(t, float), draw) for t in (times, dense_times))
    return dense / own


def interval(draws: NDArray[np.float64] | None) -> tuple[float, float] | None:
    """Give the 95 % percentile interval of draws."""
    if draws is None:
        return None
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _medians(times: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    chosen = draw.integers(len(times), size=(DRAWS, len(times)))
    medians: NDArray[np.float64] = np.median(times[chosen], axis=1)
    return medians
