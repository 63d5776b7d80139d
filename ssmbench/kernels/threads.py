"""Threads that stay awake for a moment between two operations.

A scan has thousands of operations of tens of microseconds, with as short ones of a single thread
between. Where the other threads go to sleep meanwhile, waking them takes longer than their share
of the work: on two cores the scans then take up to three times as long (benchmarks/mixers.py).
"""

from __future__ import annotations

import os
from typing import Final

# GNU's OpenMP, which torch brings, counts turns of an empty loop: a few milliseconds of them.
_VARIABLE: Final = "GOMP_SPINCOUNT"
_TURNS: Final = "100000"


def variables() -> dict[str, str]:
    """Give the environment in which threads stay awake; what the user has set stands.

    It must be in place before torch is imported.
    """
    return {_VARIABLE: os.environ.get(_VARIABLE, _TURNS)}
