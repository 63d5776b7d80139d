"""Keeping a Ctrl-C or SIGTERM waiting while something must not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Deliver signals that come inside the block at its end, to whoever handled them before.

    Only the main thread handles signals; elsewhere nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: Any) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in _NUMBERS}
    # None: a handler that was not set from Python, which Python could not put back.
    before = {number: handler for number, handler in before.items() if handler is not None}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in came:
            signal.raise_signal(each)
