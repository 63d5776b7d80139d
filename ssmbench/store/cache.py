"""This machine's own copies of objects: each is fetched once, under the hash of its content.

They lie in the folder for temporary files, and go when nobody has wanted them for a week.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ssmbench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ssmbench.store.address import Address

KEPT_S = 7 * 24 * 3600.0
_AT_ONCE = 16


def copies(wanted: Sequence[tuple[Address, str]], *, gone: str, changed: str) -> list[Path]:
    """Give local files with the content of objects, fetching those that are not here yet.

    Args:
        wanted: each object with its SHA-256.
        gone: what to say behind the address of an object that is not there.
        changed: the same of one whose content has another hash.

    Raises:
        StoreError: an object is gone or damaged, or this machine has no room.
    """

    def copy(one: tuple[Address, str]) -> Path:
        address, known = one
        path = _folder() / "objects" / f"{known}{Path(address.name).suffix}"
        if path.is_file() and _sum(path.read_bytes()) == known:
            os.utime(path)
            return path
        try:
            data = address.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{address}: {gone}") from None
        if _sum(data) != known:
            raise StoreError(f"{address}: {changed}")
        _settle(path, lambda temporary: temporary.write_bytes(data))
        return path

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(copy, wanted))


def folder_of(name: str, files: Mapping[str, Callable[[], bytes]]) -> Path:
    """Give a local folder that is called by the hash of what it holds, filling it if need be.

    Args:
        name: its name.
        files: relative name -> what fetches the content.

    Raises:
        StoreError: this machine has no room; and whatever fetching raises.
    """
    path = _folder() / "folders" / name
    if path.is_dir():
        os.utime(path)
        return path

    def fill(temporary: Path) -> None:
        for file, fetch in files.items():
            place = temporary / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(fetch())

    _settle(path, fill)
    return path


def _settle(path: Path, write: Callable[[Path], object]) -> None:
    """Write under a name of one's own, then rename; who was faster has written the same."""
    temporary = path.with_name(f"{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():
                raise
    except StoreError:
        raise
    except OSError as problem:
        raise StoreError(
            f"{path.parent}: cannot be written ({problem.strerror}). Make room, or set TMPDIR to"
            " a disk that has some."
        ) from problem
    finally:
        _remove(temporary)


@functools.cache
def _folder() -> Path:
    """Give the folder of all copies, without those that nobody has wanted for long."""
    path = Path(tempfile.gettempdir()) / f"ssmbench-objects-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise StoreError(f"{path}: belongs to somebody else. Set TMPDIR to a folder of yours.")
    oldest_s = time.time() - KEPT_S
    for kind in ("objects", "folders"):
        for old in (path / kind).glob("*"):
            with contextlib.suppress(OSError):  # Somebody else removes it.
                if old.stat().st_mtime < oldest_s:
                    _remove(old)
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
