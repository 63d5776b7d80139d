"""What another terminal asks of a run's driver: one small file each, under requests/.

The driver remembers what lay there when it started and obeys what came since, so that no
request outlives the driver it was meant for and no clocks are compared.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from typing import TYPE_CHECKING, Literal

from ssmbench.errors import StoreError
from ssmbench.store import atomic

if TYPE_CHECKING:
    from ssmbench.store.folder import RunFolder

# 1: start nothing new, what runs may finish; 2: end what runs.
Level = Literal[1, 2]

_log = logging.getLogger(__name__)


def ask_to_stop(folder: RunFolder, level: Level) -> None:
    """Leave a request to stop; the driver reads it within seconds.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = folder.requests_dir / f"stop-{uuid.uuid4().hex}.json"
    request = {"level": level, "at_s": time.time()}
    try:
        atomic.write_bytes(path, json.dumps(request).encode() + b"\n")
    except OSError as problem:
        raise StoreError(
            f"{path.parent}: cannot be written ({problem.strerror}). Send the driver's process"
            " SIGTERM on its own machine instead."
        ) from problem


class StopRequests:
    """The driver's side: make one at the start, ask it for the level now and then."""

    def __init__(self, folder: RunFolder) -> None:
        """Remember what lies there already: it was meant for somebody else."""
        self._folder = folder
        self._seen = set(self._names())
        self._level = 0

    def level(self) -> int:
        """Give the highest level asked for since the start: 0 none, 1 or 2 as `Level`."""
        for name in self._names():
            if name not in self._seen:
                self._seen.add(name)
                self._level = max(self._level, self._read(name))
        return self._level

    def _names(self) -> list[str]:
        where = self._folder.requests_dir
        if not where.is_dir():
            return []
        return [p.name for p in where.iterdir() if p.name.startswith("stop-")]

    def _read(self, name: str) -> int:
        path = self._folder.requests_dir / name
        try:
            level = json.loads(path.read_bytes())["level"]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            _log.warning("%s: is damaged and ignored (%s)", path, problem)
            return 0
        return int(level) if level in {1, 2} else 0
