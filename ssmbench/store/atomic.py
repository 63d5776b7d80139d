"""Files appear whole or not at all, and stay: temporary name, fsync, link or rename, fsync.

A process may die between any two lines here. What it then leaves is a file whose name starts
with `.tmp-`, which nothing reads. In an object store one request does all of that; a folder is
there from the moment that its seal is (store/sealed.py).
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ssmbench.store import sealed
from ssmbench.store.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl

    from ssmbench.store.address import Place

TEMPORARY = ".tmp-"

# What file systems without hard links (exFAT, SMB, some FUSE mounts) answer to link(2).
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_bytes(path: Place, data: bytes, *, replace: bool = False) -> None:
    """Put `data` under `path`, durably and in one step; folders are made as needed.

    In an object store, of two writers at the same moment the later one's data stays even
    without `replace`: names that matter are unique.

    Args:
        path: the name under which readers will find it.
        data: the whole content.
        replace: overwrite what is there (signs of life, and names that nobody else can have).

    Raises:
        FileExistsError: `path` is taken and `replace` is False; it is left as it was.
        OSError: the disk is full or unwritable; nothing is visible under `path`.
        StoreError: the object store refuses.
    """
    if isinstance(path, Address):
        if not replace and path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        path.store.write(path.key, data)
        return
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


def write_together(files: Sequence[tuple[Place, bytes]]) -> None:
    """Put several new files of one folder under their names, in this order; durable on return.

    All of their content is on the disk before the first name is there, and one sync serves all
    names. So a power cut before the return may leave a later name without an earlier one, a
    process that dies may not.

    Raises:
        FileExistsError: a name is taken; those before it are there.
        OSError: the disk is full or unwritable; nothing is visible.
        StoreError: the object store refuses.
    """
    ours = [(path, data) for path, data in files if not isinstance(path, Address)]
    for path, data in files[len(ours) :]:
        write_bytes(path, data)
    if not ours:
        return
    folder = ours[0][0].parent
    make_folder(folder)
    begun: list[tuple[Path, int]] = []
    try:
        for path, data in ours:
            temporary = temporary_beside(path)
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            begun.append((temporary, os.open(temporary, flags, 0o666)))
            write_all(begun[-1][1], data)
        for _, descriptor in begun:
            os.fsync(descriptor)
        for (temporary, _), (path, _) in zip(begun, ours, strict=True):
            _link(temporary, path)
    finally:
        for temporary, descriptor in begun:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
    sync_folder(folder)


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """Encode a frame as Parquet (zstd), in memory: a run's tables are small."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


@contextmanager
def new_folder(path: Place) -> Iterator[Path]:
    """Give a temporary folder that becomes `path`, whole, when the block ends without error.

    If somebody else put `path` there meanwhile, theirs stays and ours is dropped: whoever
    comes first wins, and the caller reads `path` in either case. The block writes the folder's
    seal, `sealed.SEAL`.
    """
    if isinstance(path, Address):
        with tempfile.TemporaryDirectory(prefix="ssmbench-") as scratch:
            yield Path(scratch)
            sealed.publish(Path(scratch), path)
        return
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


def local_folder(path: Place) -> Path | None:
    """Give a folder that `new_folder` put there as a local one; None if there is none.

    Raises:
        StoreError: an object of it is gone or damaged.
    """
    if isinstance(path, Address):
        return sealed.fetch(path)
    return path if path.is_dir() else None


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
