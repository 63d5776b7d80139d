"""Work that several cells share, under a content key: calibration statistics, scores, adapters.

Whoever comes first publishes; everybody else finds it. Two that compute the same thing at
once both end with the first one's files.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError
from ssmbench.plan.cells import digest
from ssmbench.store import atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ssmbench.store.address import Place
    from ssmbench.store.folder import RunFolder

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
        path = atomic.local_folder(self._path(key))
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
        path = self.get(key)
        if path is None:
            with atomic.new_folder(self._path(key)) as temporary:
                write(temporary)
                files = sorted(p for p in temporary.rglob("*") if p.is_file())
                hashes = {p.relative_to(temporary).as_posix(): _hash(p) for p in files}
                told = {"key": dict(key), "files": hashes}
                text = json.dumps(told, sort_keys=True, allow_nan=False)
                atomic.write_synced(temporary / _KEY_FILE, text.encode())
            path = atomic.local_folder(self._path(key))
        if path is None:
            raise StoreError(f"{self._path(key)}: was removed as soon as it was there.")
        return path

    def _path(self, key: Mapping[str, Any]) -> Place:
        return self._folder.artifacts_dir / digest(dict(key), 20)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
