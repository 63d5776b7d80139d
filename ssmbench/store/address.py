"""Where things lie: a local path, or an address in an object store.

`Address` has the operations of `pathlib.Path` that the store uses, under the same names and with
the same meaning; a folder is there as long as an object is in it. Writing is the business of
store/atomic.py.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

from ssmbench.errors import StoreError
from ssmbench.store import objects

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ssmbench.store.objects import Entry, Store

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
# Requests at once where many objects are wanted: what counts is their number, not their size.
_AT_ONCE = 16

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):(/*)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Address:
    """An object or a folder of objects.

    Attributes:
        root: scheme and bucket, `s3://bucket`.
        key: the rest, without `/` at either end.
        options: what pyarrow is told beside, as behind the `?` of a URI; often nothing.
    """

    root: str
    key: str
    options: str = ""

    def __str__(self) -> str:
        """Give the whole address; `place` reads it again."""
        return f"{self.root}/{self.key}" + (f"?{self.options}" if self.options else "")

    def __truediv__(self, rest: str) -> Address:
        """Give what lies below."""
        return replace(self, key=f"{self.key}/{rest}".strip("/"))

    @property
    def store(self) -> Store:
        """The client of its bucket."""
        return objects.store(self.root, self.options)

    @property
    def name(self) -> str:
        """The last part; the bucket's name at the top."""
        return (self.key or self.root).rpartition("/")[2]

    @property
    def parent(self) -> Address:
        """What it lies in."""
        return replace(self, key=self.key.rpartition("/")[0])

    def with_name(self, name: str) -> Address:
        """Give its neighbour of that name."""
        return self.parent / name

    def absolute(self) -> Address:
        """Give itself."""
        return self

    def exists(self) -> bool:
        """Whether there is such an object or folder."""
        return self.store.find(self.key) is not None

    def is_file(self) -> bool:
        """Whether there is such an object."""
        found = self.store.find(self.key)
        return found is not None and not found.is_folder

    def is_dir(self) -> bool:
        """Whether there is an object below."""
        found = self.store.find(self.key)
        return found is not None and found.is_folder

    def read_bytes(self) -> bytes:
        """Give the object's content.

        Raises:
            FileNotFoundError: there is none.
        """
        return self.store.read(self.key)

    def iterdir(self) -> Iterator[Address]:
        """List what lies directly below; nothing if it is not there."""
        return (replace(self, key=entry.key) for entry in self.store.entries(self.key))

    def below(self) -> list[Entry]:
        """List every object under it, in no order."""
        found = self.store.entries(self.key, below=True)
        return [entry for entry in found if not entry.is_folder]

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the object.

        Raises:
            FileNotFoundError: there is none, and `missing_ok` is False.
        """
        try:
            self.store.delete(self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise


Place: TypeAlias = Path | Address


def place(text: str | os.PathLike[str] | Address) -> Place:
    """Read what a user writes for a folder: a path, or an address such as `s3://bucket/run`.

    Raises:
        StoreError: an address of an unknown kind, without a bucket, or with a secret in it.
    """
    if isinstance(text, Address):
        return text
    found = _ADDRESS.fullmatch(os.fspath(text))
    if found is None or (not found[2] and found[1] not in SCHEMES):
        return Path(text)
    scheme, slashes, rest = found.groups()
    if scheme == "file":
        return Path(unquote("/" + rest))
    shown = re.sub(r"//[^/@]*:[^/@]*@", "//…@", str(text))
    if scheme not in SCHEMES:
        known = ", ".join(f"{s}://" for s in SCHEMES)
        raise StoreError(f"{shown}: expected a local or NFS path or one of {known}.")
    path, _, options = rest.partition("?")
    bucket, _, key = path.partition("/")
    if slashes != "//" or not bucket:
        raise StoreError(f"{shown}: expected {scheme}://BUCKET/FOLDER, with two slashes.")
    if ":" in bucket.partition("@")[0] and "@" in bucket:
        raise StoreError(
            f"{shown}: found a secret in the address, which is printed and stored. Expected it"
            " in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    parts = [part for part in key.split("/") if part]
    if not parts or {".", ".."} & set(parts):
        raise StoreError(f"{shown}: expected a folder in the bucket, as {scheme}://BUCKET/FOLDER.")
    return Address(f"{scheme}://{bucket}", "/".join(parts), options)


def relative(path: Place, start: Place) -> str:
    """Give the way from a folder down to what lies in it, with `/`.

    Raises:
        ValueError: it does not lie in it.
    """
    if isinstance(path, Path) and isinstance(start, Path):
        return path.relative_to(start).as_posix()
    if isinstance(path, Address) and isinstance(start, Address):
        beginning = f"{start.key}/" if start.key else ""
        same = (path.root, path.options) == (start.root, start.options)
        if same and path.key.startswith(beginning):
            return path.key[len(beginning) :]
    raise ValueError(f"{path} does not lie in {start}")


def read_all(places: Sequence[Place]) -> list[bytes | None]:
    """Read many files, or many objects at once; None for each that is not there."""

    def read(one: Place) -> bytes | None:
        try:
            return one.read_bytes()
        except FileNotFoundError:
            return None

    if not any(isinstance(one, Address) for one in places):
        return [read(one) for one in places]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(read, places))
