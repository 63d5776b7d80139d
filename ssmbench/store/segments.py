"""The files that the ledger is made of: what a driver adds to, and what readers find.

On a disk a driver appends to one file and syncs it. An object cannot be appended to, and must
not be replaced either: a request that was given up for lost may still arrive, and put an older
ledger in the place of a newer one. So each write there is a new object, with the chunk so far
under the next version's name; a chunk ends at 256 records. Readers take the newest version of
each chunk. The version before it stays until the next, for whoever has just listed it.

    ledger/NNNNNN-UUID.jsonl               on a disk
    ledger/NNNNNN-UUID-CCCCC.VVVV.jsonl    in an object store: chunk C, version V
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ssmbench.errors import StoreError
from ssmbench.store import atomic
from ssmbench.store.address import Address, read_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ssmbench.store.address import Place

RECORDS_PER_CHUNK = 256

_RELISTINGS = 10
_NAME = re.compile(r"(?P<chunk>\d+-[^.]+)(\.(?P<version>\d{4}))?\.jsonl")

_log = logging.getLogger(__name__)


class Segment(NamedTuple):
    """A file of the ledger as it was listed."""

    place: Place
    n_bytes: int


class Writer(Protocol):
    """What a driver adds its records to."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Add whole lines, durably and in order.

        Raises:
            OSError: it cannot be written.
        """

    def close(self) -> None:
        """Let go of it."""


def listed(ledger_dir: Place) -> list[Segment]:
    """List what counts of a ledger, oldest first."""
    newest: dict[str, tuple[str, str, int]] = {}
    for name, n_bytes in _names(ledger_dir):
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        version = found["version"] or ""
        if found["chunk"] not in newest or version > newest[found["chunk"]][0]:
            newest[found["chunk"]] = (version, name, n_bytes)
    return [Segment(ledger_dir / name, n) for _, (_, name, n) in sorted(newest.items())]


def read(ledger_dir: Place) -> list[tuple[Place, bytes]]:
    """Read what counts of a ledger, oldest first.

    Raises:
        StoreError: the listing shows files that are not there, again and again.
    """
    for _ in range(_RELISTINGS):
        places = [segment.place for segment in listed(ledger_dir)]
        found = [
            (place, data)
            for place, data in zip(places, read_all(places), strict=True)
            if data is not None
        ]
        # Between listing and reading, a driver may have replaced versions by newer ones.
        if len(found) == len(places):
            return found
    raise StoreError(f"{ledger_dir}: lists files that are gone when they are read. Try again.")


def writer(ledger_dir: Place) -> Writer:
    """Open a segment of one's own, behind all others."""
    last = listed(ledger_dir)
    number = int(last[-1].place.name.split("-")[0]) + 1 if last else 1
    name = f"{number:06d}-{uuid.uuid4().hex}"
    if isinstance(ledger_dir, Address):
        return _Chunks(ledger_dir / name)
    return _File(ledger_dir / f"{name}.jsonl")


class _File:
    """A segment on a disk."""

    def __init__(self, path: Path) -> None:
        atomic.make_folder(path.parent)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
        self._descriptor = os.open(path, flags, 0o666)
        self._where = path.parent
        self._broken = False
        atomic.sync_folder(path.parent)

    def write(self, lines: Sequence[bytes]) -> None:
        """Append and sync, or leave the file as it was."""
        if self._broken:
            raise StoreError(f"{self._where}: could not be written before; stopped.")
        size = os.fstat(self._descriptor).st_size
        try:
            atomic.write_all(self._descriptor, b"".join(lines))
            os.fsync(self._descriptor)
        except BaseException:
            # Half a line must stay the last one: cut it off, or write nothing more.
            self._broken = True
            os.ftruncate(self._descriptor, size)
            self._broken = False
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class _Chunks:
    """A segment in an object store; `start` is the beginning of its chunks' names."""

    def __init__(self, start: Address) -> None:
        self._start = start
        self._chunk, self._version = 1, 0
        self._lines: list[bytes] = []
        self._superseded: list[Address] = []
        self._broken = False

    def write(self, lines: Sequence[bytes]) -> None:
        """Put new versions of as many chunks as it takes."""
        if self._broken:
            raise StoreError(f"{self._start.parent}: could not be written before; stopped.")
        # After a failure nobody knows what has arrived; the next start reads it.
        self._broken = True
        rest = list(lines)
        while rest:
            if len(self._lines) == RECORDS_PER_CHUNK:
                self._chunk, self._version, self._lines = self._chunk + 1, 0, []
            room = RECORDS_PER_CHUNK - len(self._lines)
            self._lines += rest[:room]
            rest = rest[room:]
            self._put()
        self._broken = False

    def close(self) -> None:
        """Remove the last version that is not needed."""
        self._drop(keep=0)

    def _put(self) -> None:
        if self._version:
            self._superseded.append(self._object())
        self._version += 1
        # Nobody has this name, and a second try may find that the first has arrived.
        atomic.write_bytes(self._object(), b"".join(self._lines), replace=True)
        self._drop(keep=1)

    def _object(self) -> Address:
        name = f"{self._start.name}-{self._chunk:05d}.{self._version:04d}.jsonl"
        return self._start.with_name(name)

    def _drop(self, *, keep: int) -> None:
        while len(self._superseded) > keep:
            old = self._superseded.pop(0)
            try:
                old.unlink(missing_ok=True)
            except (StoreError, OSError) as problem:  # Readers pass over it.
                _log.info("%s: was not removed: %s", old, problem)


def _names(ledger_dir: Place) -> Iterable[tuple[str, int]]:
    """List names and sizes of whatever lies there; nothing where there is no such folder."""
    if isinstance(ledger_dir, Address):
        found = ledger_dir.store.entries(ledger_dir.key)
        return [(entry.key.rpartition("/")[2], entry.n_bytes) for entry in found]
    if not ledger_dir.is_dir():
        return []
    with os.scandir(ledger_dir) as entries:
        return [(entry.name, entry.stat().st_size) for entry in entries]
