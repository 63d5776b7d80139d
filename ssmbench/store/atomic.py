"""Files appear whole or not at all, and stay: temporary name, fsync, link or rename, fsync.

A process may die between any two lines here. What it then leaves is a file whose name starts
with `.tmp-`, which nothing reads.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

TEMPORARY = ".tmp-"

# What file systems without hard links (exFAT, SMB, some FUSE mounts) answer to link(2).
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_bytes(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Put `data` under `path`, durably and in one step; folders are made as needed.

    Args:
        path: the name under which readers will find it.
        data: the whole content.
        replace: overwrite what is there (for the lock's heartbeat alone).

    Raises:
        FileExistsError: `path` is taken and `replace` is False; it is left as it was.
        OSError: the disk is full or unwritable; nothing is visible under `path`.
    """
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        write_synced(temporary, data)
        if replace:
            temporary.replace(path)
        else:
            _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_parquet(path: Path, frame: pl.DataFrame) -> bytes:
    """Write a frame as one Parquet file, as `write_bytes` does, and give the bytes written."""
    data = parquet_bytes(frame)
    write_bytes(path, data)
    return data


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """Encode a frame as Parquet (zstd), in memory: a run's tables are small."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path`, whole, when the block ends without error.

    If somebody else put `path` there meanwhile, theirs stays and ours is dropped: whoever
    comes first wins, and the caller reads `path` in either case.
    """
    make_folder(path.parent)
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
        try:
            os.rename(temporary, path)  # noqa: PTH104 - an existing full folder must fail
        except OSError as problem:
            if problem.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        sync_folder(path.parent)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def temporary_beside(path: Path) -> Path:
    """Make up a name in the same folder that no reader looks at and nobody else makes up."""
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")


def make_folder(path: Path) -> None:
    """Create a folder and those above it, each durable before something is put into it."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Create a file that must not exist, with all of `data` on the disk on return."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte: write(2) may stop short, and does when a disk fills up."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where its file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make every file and name below a folder durable."""
    for folder, _, files in os.walk(path):
        for name in files:
            descriptor = os.open(Path(folder, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(folder))


def _link(temporary: Path, path: Path) -> None:
    """Give `temporary` its final name unless that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS may repeat a link(2) that succeeded and then report that the name is taken.
        if temporary.stat().st_nlink != 2:
            raise
    except OSError as problem:
        if problem.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)
