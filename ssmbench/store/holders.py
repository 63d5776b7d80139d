"""The files behind the lock: claims of a number, and signs of life.

On a disk, number N+1 is taken by link(2), which one process only can do; the same file then
carries the signs of life.

    LOCK/NNNNNN.json

pyarrow has no "put unless it is there", so in an object store a claim has a name of its own and
is never changed; the signs of life go beside it:

    LOCK/NNNNNN-UUID.json           the claim
    LOCK/NNNNNN-UUID.alive.json     the last sign of life

The highest number holds the lock; of several claims to it, the first by the store's clock (then
by name). Who has put a claim waits until every claim that the store could have dated before is
in its listings, and looks again: all who claimed see the same winner. A claimer that slept in
between is dated later and loses; if a store's clocks disagree, the loser notices before its next
record. Even two that both write hurt nothing: their segments are their own, and of two commits
of one suite the first in the order of reading counts (store/ledger.py).
"""

from __future__ import annotations

import os
import re
import time
import uuid
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ssmbench.store import atomic, sealed
from ssmbench.store.address import Address

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ssmbench.store.address import Place

_CLAIM = re.compile(r"(\d{6})-[0-9a-f]{32}\.json")
_ALIVE = ".alive.json"


class Last(NamedTuple):
    """The lock's present state: its number, the claim's name, and what the holder said last.

    `told` is None where nobody ever held it, and not JSON where the file is damaged.
    """

    number: int
    name: str
    told: bytes | None
    where: Place


class Holders(Protocol):
    """The lock's files of one run folder."""

    def top(self) -> tuple[int, str]:
        """Give the highest number and its claim's name; 0 and nothing if nobody held it yet."""

    def last(self) -> Last:
        """Read who holds the lock, or did."""

    def claim(self, number: int, told: bytes) -> str | None:
        """Try to take a number; give the claim's name, or None if somebody else has it."""

    def tell(self, name: str, told: bytes) -> None:
        """Put a holder's next sign of life."""

    def drop_before(self, number: int) -> None:
        """Remove the files of earlier holders."""


def holders(lock_dir: Place) -> Holders:
    """Give the lock's files of a run folder."""
    return _Objects(lock_dir) if isinstance(lock_dir, Address) else _Files(lock_dir)


class _Files:
    """On a disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def top(self) -> tuple[int, str]:
        """Find the highest numbered file."""
        try:
            names = [n for n in os.listdir(self._folder) if n[:1].isdigit()]  # noqa: PTH208
        except FileNotFoundError:
            return 0, ""
        name = max(names, default="")
        return _number(name), name

    def last(self) -> Last:
        """Read the highest numbered file."""
        while True:
            number, name = self.top()
            if not name:
                return Last(0, "", None, self._folder)
            path = self._folder / name
            try:
                return Last(number, name, path.read_bytes(), path)
            except FileNotFoundError:
                continue  # Succeeded and removed since the listing.

    def claim(self, number: int, told: bytes) -> str | None:
        """Create the file of that number."""
        path = self._folder / f"{number:06d}.json"
        try:
            atomic.write_bytes(path, told)
        except FileExistsError:
            return None
        return path.name

    def tell(self, name: str, told: bytes) -> None:
        """Replace the file; one that was succeeded and removed stays so."""
        path = self._folder / name
        if path.exists():
            atomic.write_bytes(path, told, replace=True)

    def drop_before(self, number: int) -> None:
        """Remove the files of lower numbers."""
        for path in self._folder.glob("[0-9]*.json"):
            if path.name < f"{number:06d}":
                path.unlink(missing_ok=True)


class _Objects:
    """In an object store."""

    def __init__(self, folder: Address) -> None:
        self._folder = folder

    def top(self) -> tuple[int, str]:
        """Find the claim that counts."""
        return _top(self._names())

    def last(self) -> Last:
        """Find the claim that counts and read its last sign of life."""
        while True:
            names = self._names()
            number, name = _top(names)
            if not name:
                return Last(0, "", None, self._folder)
            alive = name.removesuffix(".json") + _ALIVE
            path = self._folder / (alive if alive in names else name)
            try:
                return Last(number, name, path.read_bytes(), path)
            except FileNotFoundError:
                continue

    def claim(self, number: int, told: bytes) -> str | None:
        """Put a claim, let the store settle, and see whether it is the first."""
        name = f"{number:06d}-{uuid.uuid4().hex}.json"
        atomic.write_bytes(self._folder / name, told, replace=True)
        time.sleep(sealed.SETTLE_S)
        if self.top()[1] == name:
            return name
        (self._folder / name).unlink(missing_ok=True)
        return None

    def tell(self, name: str, told: bytes) -> None:
        """Put the sign of life beside the claim."""
        alive = name.removesuffix(".json") + _ALIVE
        atomic.write_bytes(self._folder / alive, told, replace=True)

    def drop_before(self, number: int) -> None:
        """Remove claims to lower numbers and their signs of life."""
        for name in self._names():
            if name[:6].isdigit() and _number(name) < number:
                (self._folder / name).unlink(missing_ok=True)

    def _names(self) -> dict[str, float]:
        """Give every name with the time at which the store got it."""
        found = self._folder.store.entries(self._folder.key)
        return {e.key.rpartition("/")[2]: e.written_s for e in found if not e.is_folder}


def _top(names: Mapping[str, float]) -> tuple[int, str]:
    """Choose among claims, given with the time at which the store got each."""
    claims = [(written_s, name) for name, written_s in names.items() if _CLAIM.fullmatch(name)]
    number = max((_number(name) for _, name in claims), default=0)
    rivals = [claim for claim in claims if _number(claim[1]) == number]
    return number, min(rivals)[1] if rivals else ""


def _number(name: str) -> int:
    digits = re.match(r"\d+", name)
    return int(digits[0]) if digits else 0
