"""One driver at a time, on one machine, over NFS or an object store, without a server.

The folder LOCK/ holds one small file per holder, numbered. The highest number holds the lock,
and only one process can take the next (store/holders.py says how): two drivers that both find
a holder dead cannot both succeed it, and none can remove another's lock. A holder that is
succeeded (it slept, or was cut off) notices before its next line in the ledger and stops. The
last file is never deleted, only marked as released.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssmbench.errors import StoreError
from ssmbench.store.holders import holders

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssmbench.store.folder import RunFolder

STALE_AFTER_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who drives a run folder, or did last.

    `machine` tells one boot and process namespace from another, where the host's name does
    not; `process` tells a process from a later one with the same pid. Times are Unix seconds.
    """

    host: str
    machine: str
    pid: int
    process: str
    uuid: str
    since_s: float
    heartbeat_s: float
    released: bool = False

    @classmethod
    def me(cls, now: float) -> Holder:
        """Describe this process."""
        pid = os.getpid()
        unique = uuid.uuid4().hex
        return cls(socket.gethostname(), _machine(), pid, _process(pid), unique, now, now)

    def alive(self, now: float) -> bool:
        """Whether the holder must be respected.

        On this machine the process table knows; elsewhere a heartbeat of the last minute
        counts. A heartbeat in the future (clocks differ) counts as well.
        """
        if self.released:
            return False
        if (self.host, self.machine) == (socket.gethostname(), _machine()):
            return _process(self.pid) == self.process and _running(self.pid)
        return now - self.heartbeat_s <= STALE_AFTER_S


class RunLock:
    """The right to write the ledger; `check` before each line, `release` at the end."""

    def __init__(
        self, folder: RunFolder, name: str, holder: Holder, now: Callable[[], float]
    ) -> None:
        self._folder, self._name, self._now = folder, name, now
        self._files = holders(folder.lock_dir)
        self.holder = holder
        self._guard = threading.Lock()

    @classmethod
    def take(
        cls, folder: RunFolder, *, steal: bool = False, now: Callable[[], float] = time.time
    ) -> RunLock:
        """Become the driver.

        Args:
            folder: the run folder.
            steal: take it from a living holder too.
            now: the clock, Unix seconds.

        Raises:
            StoreError: somebody else is driving, who is named, or the disk refuses.
        """
        files = holders(folder.lock_dir)
        while True:
            number, last = _last(folder)
            if last is not None and not steal and last.alive(now()):
                raise StoreError(
                    f"{folder.path}: is driven by process {last.pid} on {last.host} (last sign"
                    f" of life {max(0.0, now() - last.heartbeat_s):.0f} s ago). Wait for it,"
                    " stop it, or take over with --steal-lock."
                )
            holder = Holder.me(now())
            try:
                name = files.claim(number + 1, _json(holder))
            except StoreError:
                raise
            except OSError as problem:
                raise StoreError(
                    f"{folder.lock_dir}: cannot be written ({problem.strerror}). Make room and run"
                    " again; finished suites are kept."
                ) from problem
            if name is None:
                continue  # Another driver took the same number first.
            files.drop_before(number + 1)
            return cls(folder, name, holder, now)

    def check(self) -> None:
        """Make sure that nobody has taken over.

        Raises:
            StoreError: somebody has; this driver must not write any more.
        """
        if self._files.top()[1] != self._name:
            last = _last(self._folder)[1]
            who = f"process {last.pid} on {last.host}" if last else "another driver"
            raise StoreError(
                f"{self._folder.path}: {who} has taken over this run; this driver stops."
                " What its workers still finish is kept and adopted by the next start."
            )

    def beat(self) -> None:
        """Give a sign of life.

        Raises:
            StoreError: somebody has taken over.
        """
        with self._guard:
            if self.holder.released:
                return
            self.check()
            self.holder = replace(self.holder, heartbeat_s=self._now())
            self._files.tell(self._name, _json(self.holder))

    def release(self) -> None:
        """Let the next driver in at once; harmless if the lock is lost already."""
        with self._guard:
            if self.holder.released:
                return
            self.holder = replace(self.holder, released=True, heartbeat_s=self._now())
            self._files.tell(self._name, _json(self.holder))


def holder(folder: RunFolder, *, now: float) -> Holder | None:
    """Tell who is driving the run at this moment, or None."""
    last = _last(folder)[1]
    return last if last is not None and last.alive(now) else None


def _last(folder: RunFolder) -> tuple[int, Holder | None]:
    """Read the lock's number and its holder; a damaged file counts as nobody's."""
    found = holders(folder.lock_dir).last()
    if found.told is None:
        return found.number, None
    try:
        return found.number, Holder(**json.loads(found.told))
    except (ValueError, TypeError):
        _log.warning("%s: is damaged and ignored", found.where)
        return found.number, None


def _json(holder_: Holder) -> bytes:
    return json.dumps(asdict(holder_)).encode() + b"\n"


def _machine() -> str:
    """Name this boot and process namespace; empty where the system has no such names."""
    parts = []
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        return ""
    return " ".join(parts)


def _process(pid: int) -> str:
    """Give the start time of a process, in clock ticks since boot; empty where untold."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "dead" if fields[0] in "ZX" else fields[19]  # A zombie drives nothing.


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # It is there, and somebody else's.
        return True
    return True
