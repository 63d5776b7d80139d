"""Work that several cells share, under a content key: calibration statistics, scores, adapters.

Whoever comes first publishes; everybody else finds it. Two that compute the same thing at
once both end with the first one's files.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError
from ssmbench.plan.cells import digest
from ssmbench.store import atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ssmbench.store.folder import RunFolder

_KEY_FILE = "key.json"


class Artifacts:
    """The artifacts of one run folder."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def get(self, key: Mapping[str, Any]) -> Path | None:
        """Give the folder published under a key, or None.

        Args:
            key: JSON that says everything on which the content depends.

        Raises:
            StoreError: the folder of that key is of another key, or damaged.
        """
        path = self._path(key)
        if not path.is_dir():
            return None
        try:
            found = json.loads((path / _KEY_FILE).read_bytes())
        except (OSError, ValueError) as problem:
            raise StoreError(f"{path}: is damaged ({problem}). Delete it and run again.") from None
        if found != json.loads(json.dumps(dict(key))):
            raise StoreError(f"{path}: belongs to another key. Delete it and run again.")
        return path

    def publish(self, key: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        """Put something under a key, in one step, unless it is there already.

        Args:
            key: as for `get`.
            write: fills the empty folder that it is given.

        Returns:
            The published folder: ours, or that of whoever was faster.
        """
        path = self._path(key)
        if self.get(key) is None:
            with atomic.new_folder(path) as temporary:
                write(temporary)
                text = json.dumps(dict(key), sort_keys=True, allow_nan=False)
                atomic.write_synced(temporary / _KEY_FILE, text.encode())
        return path

    def _path(self, key: Mapping[str, Any]) -> Path:
        return self._folder.artifacts_dir / digest(dict(key), 20)
