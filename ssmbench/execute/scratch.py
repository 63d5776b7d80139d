"""A folder for a local cluster's sockets, logs and temporary files, gone with its process.

A process that is killed cannot remove its folder, so the next one does: a folder whose lock
nobody holds belongs to nobody.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "ssmbench-ray-"
_LOCK = "owner.lock"
# Ray's sockets lie 80 characters below the folder, and their paths may have 107 bytes.
_LONGEST_PARENT = 24


class Scratch:
    """A new folder, short of name, that `close` removes."""

    def __init__(self, parent: Path | None = None) -> None:
        """Make the folder, and remove those that dead processes left beside it."""
        parent = parent or _parent()
        _sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._descriptor = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def _parent() -> Path:
    default = tempfile.gettempdir()
    return Path(default if len(default) <= _LONGEST_PARENT else "/tmp")


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(folder / _LOCK, os.O_RDWR)
        except OSError:
            # Another user's, or this moment's: made but not locked yet.
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
