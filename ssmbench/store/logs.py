"""Logs of attempts: written on the machine that works, and in the run folder for all to read.

On a disk the log is the file itself. To an object store it goes whole: at the start, so that
everybody sees that the attempt has begun, every half minute, and at the end. A process that is
killed leaves the log as it was at most half a minute before.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ssmbench.errors import StoreError
from ssmbench.store import atomic
from ssmbench.store.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssmbench.store.folder import RunFolder

UPLOAD_EVERY_S = 30.0
# Of a library that prints by the gigabyte, sending must not take more than this part of the time.
_MOST_OF_TIME = 0.05

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def writing(folder: RunFolder, log: str) -> Iterator[TextIO]:
    """Open an attempt's log for appending, line by line; a real file, with a descriptor.

    Args:
        folder: the run folder.
        log: the log's path relative to it.

    Raises:
        OSError: the file cannot be created, or the object store does not take it.
    """
    target = folder.path / log
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a", encoding="utf-8", buffering=1) as stream:
            yield stream
        return
    with tempfile.TemporaryDirectory(prefix="ssmbench-log-") as scratch:
        path = Path(scratch) / target.name
        with path.open("a", encoding="utf-8", buffering=1) as stream, _uploads(path, target):
            yield stream


class Beginnings:
    """Which attempts have begun, by their logs; an object store is asked now and then only."""

    def __init__(self, folder: RunFolder, *, ask_every_s: float = 5.0) -> None:
        """Know of none; `ask_every_s` is the pause between two questions for one log."""
        self._folder, self._ask_every_s = folder, ask_every_s
        self._asked_s: dict[str, float] = {}

    def has(self, cell_id: str, attempt_id: str) -> bool:
        """Whether the attempt is known to have begun its work."""
        path = self._folder.log_file(cell_id, attempt_id)
        if isinstance(path, Address):
            now = time.monotonic()
            if now - self._asked_s.get(attempt_id, float("-inf")) < self._ask_every_s:
                return False
            self._asked_s[attempt_id] = now
        return path.exists()


@contextlib.contextmanager
def _uploads(path: Path, target: Address) -> Iterator[None]:
    """Send a growing file to an object store until the block ends, and then once more."""
    atomic.write_bytes(target, path.read_bytes(), replace=True)
    stop = threading.Event()
    thread = threading.Thread(target=_keep_sending, args=(path, target, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _send(path, target)


def _keep_sending(path: Path, target: Address, stop: threading.Event) -> None:
    pause_s, n_sent = UPLOAD_EVERY_S, 0
    while not stop.wait(pause_s):
        n_bytes = path.stat().st_size
        if n_bytes != n_sent:
            began_s = time.monotonic()
            _send(path, target)
            n_sent = n_bytes
            pause_s = max(UPLOAD_EVERY_S, (time.monotonic() - began_s) / _MOST_OF_TIME)


def _send(path: Path, target: Address) -> None:
    try:
        atomic.write_bytes(target, path.read_bytes(), replace=True)
    except (OSError, StoreError) as problem:  # No reason to lose what was measured.
        _log.warning("%s: the log was not sent: %s", target, problem)
