"""Ctrl-C and SIGTERM, turned into a request that the driver reads.

The first Ctrl-C lets what runs finish, the second ends it. SIGTERM is a first Ctrl-C that
becomes a second after a grace period, since whoever sends it will not wait for long.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE_S = 20.0


@dataclass
class Stop:
    """What the user asked for: 0 go on, 1 start nothing new, 2 end at once."""

    level: int = 0


@contextlib.contextmanager
def listening(stop: Stop, *, breaks_in: bool, grace_s: float = GRACE_S) -> Iterator[None]:
    """Raise `stop.level` at each Ctrl-C; put the old handlers back afterwards.

    Args:
        stop: what the driver reads.
        breaks_in: raise KeyboardInterrupt in the main thread at level 2, for attempts that
            run there.
        grace_s: from SIGTERM to the end.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python allows handlers in the main thread alone; elsewhere nobody presses Ctrl-C.
        yield
        return

    def raise_level(number: int, _frame: Any) -> None:
        stop.level = 2 if number == signal.SIGALRM else min(2, stop.level + 1)
        if number == signal.SIGTERM:
            signal.setitimer(signal.ITIMER_REAL, grace_s)
        if stop.level >= 2 and breaks_in:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.signal(number, raise_level) for number in numbers}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
