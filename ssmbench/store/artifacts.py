"""Work that several cells share, under a content key: calibration statistics, scores, adapters.

Whoever comes first publishes; everybody else finds it. Two that compute the same thing at
once both end with the first one's files. A series has several under one key, such as the
checkpoints of a training.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError
from ssmbench.plan.cells import digest
from ssmbench.store import atomic, sealed
from ssmbench.store.address import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ssmbench.store.address import Place
    from ssmbench.store.folder import RunFolder

log = logging.getLogger(__name__)

# Written last: the key in plain form, and the other files with their SHA-256.
_KEY_FILE = "key.json"
_MEND = "Delete this folder and run again: what it held is computed anew."


class Artifacts:
    """The artifacts of one run folder."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def get(self, key: Mapping[str, Any]) -> Path | None:
        """Give the folder published under a key, or None; from an object store, a local copy.

        Args:
            key: JSON that says everything on which the content depends.

        Raises:
            StoreError: the folder of that key is of another key, or damaged.
        """
        return self._whole(self._path(key), key)

    def _whole(self, place: Place, key: Mapping[str, Any]) -> Path | None:
        path = atomic.local_folder(place)
        if path is None:
            return None
        try:
            found = json.loads((path / _KEY_FILE).read_bytes())
            same = found["key"] == json.loads(json.dumps(dict(key)))
            changed = [n for n, known in found["files"].items() if _hash(path / n) != known]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise StoreError(f"{path}: is damaged ({problem}). {_MEND}") from None
        if not same:
            raise StoreError(f"{path}: belongs to another key. {_MEND}")
        if changed:
            raise StoreError(f"{path}: is damaged ({changed[0]} has changed). {_MEND}")
        return path

    def publish(self, key: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        """Put something under a key, in one step, unless it is there already.

        Args:
            key: as for `get`.
            write: fills the empty folder that it is given.

        Returns:
            The published folder: ours, or that of whoever was faster.
        """
        return self._put(self._path(key), key, write)

    def series(self, key: Mapping[str, Any]) -> Series:
        """Give what is published under a key again and again: a training's checkpoints.

        Args:
            key: as for `get`.
        """
        return Series(self, key)

    def _put(self, place: Place, key: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        path = self._whole(place, key)
        if path is None:
            with atomic.new_folder(place) as temporary:
                write(temporary)
                files = sorted(p for p in temporary.rglob("*") if p.is_file())
                hashes = {p.relative_to(temporary).as_posix(): _hash(p) for p in files}
                told = {"key": dict(key), "files": hashes}
                text = json.dumps(told, sort_keys=True, allow_nan=False)
                atomic.write_synced(temporary / _KEY_FILE, text.encode())
            path = atomic.local_folder(place)
        if path is None:
            raise StoreError(f"{place}: was removed as soon as it was there.")
        return path

    def _path(self, key: Mapping[str, Any]) -> Place:
        return self._folder.artifacts_dir / digest(dict(key), 20)


class Series:
    """Artifacts of one key, numbered by steps; only the newest two are kept.

    The one before the newest is for a newest that turns out to be damaged.
    """

    def __init__(self, artifacts: Artifacts, key: Mapping[str, Any]) -> None:
        self._artifacts, self._key = artifacts, key
        self._base = artifacts._path(key)

    def latest(self) -> tuple[int, Path] | None:
        """Give the newest whole one's step and folder, or None; damaged ones are passed over."""
        for step in reversed(self._steps()):
            try:
                found = self._artifacts._whole(self._at(step), self._keyed(step))
            except StoreError as problem:
                log.warning("the one before is used, if there is one: %s", problem)
                continue
            if found is not None:
                return step, found
        return None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Publish one, in one step, and drop those older than the one before it.

        Args:
            step: its number, ≥ 0.
            write: fills the empty folder that it is given.
        """
        path = self._at(step)
        try:
            self._artifacts._put(path, self._keyed(step), write)
        except StoreError:
            # A damaged one of the same step stands in the way of its own repair.
            _drop(path)
            self._artifacts._put(path, self._keyed(step), write)
        self._keep(2)

    def clear(self) -> None:
        """Drop all of them."""
        self._keep(0)

    def _keep(self, n: int) -> None:
        steps = self._steps()
        for step in steps[: len(steps) - n]:
            _drop(self._at(step))

    def _steps(self) -> list[int]:
        if not self._base.parent.is_dir():
            return []
        found = (p.name for p in self._base.parent.iterdir())
        numbers = (n.removeprefix(f"{self._base.name}.") for n in found if n != self._base.name)
        return sorted(int(n) for n in numbers if n.isdecimal())

    def _at(self, step: int) -> Place:
        return self._base.with_name(f"{self._base.name}.{step}")

    def _keyed(self, step: int) -> dict[str, Any]:
        return {**self._key, "step": step}


def _drop(path: Place) -> None:
    """Remove a folder, which nobody is to see half gone; another process may be faster."""
    if isinstance(path, Address):
        sealed.remove(path)
        return
    aside = atomic.temporary_beside(path)
    with contextlib.suppress(OSError):
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
