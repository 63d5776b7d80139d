"""Folders that appear whole: their seal, written last, names every file with its SHA-256.

In an object store, whoever publishes folder KEY puts the files under a name of their own and
the seal behind them:

    KEY/UUID/FILE …   KEY/UUID/key.json

What has no seal is not there. Of several sealed ones the first by the store's clock is KEY, for
everybody: who has just put a seal waits until every seal that the store could have dated before
is in its listings, and only then looks whether theirs is the first. So two that compute the same
at once go on with the same bits, as on a disk, where rename does it.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from typing import TYPE_CHECKING

from ssmbench.errors import StoreError
from ssmbench.store import cache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ssmbench.store.address import Address, Place

SEAL = "key.json"
# The clocks of stores tell whole seconds; a request is answered within the other.
SETTLE_S = 2.0

_MEND = "Delete this folder and run again: what it held is computed anew."


def write(folder: Path, key: Mapping[str, object]) -> bytes:
    """Give the content of a folder's seal.

    Args:
        folder: everything that is to be in it.
        key: JSON that is stored with it.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    hashes = {p.relative_to(folder).as_posix(): sum_of(p) for p in files}
    told = {"key": dict(key), "files": hashes}
    return json.dumps(told, sort_keys=True, allow_nan=False).encode()


def sum_of(path: Path) -> str:
    """Give a file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(folder: Path, *, mend: str) -> None:
    """Compare a local folder with its seal.

    Args:
        folder: the folder.
        mend: what to do if it is damaged.

    Raises:
        StoreError: a file is gone or has changed, or the seal is none.
    """
    try:
        files = _files((folder / SEAL).read_bytes(), folder, mend)
        changed = [name for name, known in files.items() if sum_of(folder / name) != known]
    except OSError as problem:
        raise StoreError(
            f"{problem.filename}: cannot be read ({problem.strerror}). {mend}"
        ) from None
    if changed:
        raise StoreError(f"{folder / changed[0]}: does not match the checksum in {SEAL}. {mend}")


def publish(folder: Path, target: Address) -> None:
    """Put a sealed local folder into an object store as `target`, unless somebody was faster.

    Raises:
        StoreError: the store refuses or does not answer.
    """
    mine = target / uuid.uuid4().hex
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != SEAL:
            mine.store.write((mine / name).key, _mapped(path))
    mine.store.write((mine / SEAL).key, (folder / SEAL).read_bytes())
    time.sleep(SETTLE_S)
    if _first(target) != mine / SEAL:
        remove(mine)


def fetch(target: Address) -> Path | None:
    """Give a local copy of what was published first as `target`; None if nothing is sealed.

    Raises:
        StoreError: the seal or a file is damaged or gone.
    """
    seal = _first(target)
    if seal is None:
        return None
    try:
        text = seal.read_bytes()
    except FileNotFoundError:
        return None  # Removed since the listing, the seal first.
    files = _files(text, target, _MEND)
    wanted: dict[str, Callable[[], bytes]] = {SEAL: lambda: text}
    for name, known in files.items():
        wanted[name] = _fetcher(target, seal.with_name(name), known)
    whose = hashlib.sha256(f"{seal}\n".encode() + text).hexdigest()
    return cache.folder_of(whose, wanted)


def remove(folder: Address) -> None:
    """Remove a published folder, its seals first: nobody finds it with half of its files."""
    for entry in sorted(folder.below(), key=lambda e: not e.key.endswith(f"/{SEAL}")):
        (folder / entry.key[len(folder.key) + 1 :]).unlink(missing_ok=True)


def _files(seal: bytes, folder: Place, mend: str) -> dict[str, str]:
    """Give the names and hashes in a seal; a name that leads elsewhere is damage."""
    try:
        files = {str(name): str(known) for name, known in json.loads(seal)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise StoreError(f"{folder / SEAL}: is damaged ({problem}). {mend}") from None
    for name in files:
        if name.startswith("/") or ".." in name.split("/"):
            raise StoreError(f"{folder / SEAL}: is damaged ('{name}' is no file here). {mend}")
    return files


def _first(target: Address) -> Address | None:
    """Find the seal that counts."""
    depth = target.key.count("/") + 2
    seals = [
        (entry.written_s, entry.key)
        for entry in target.below()
        if entry.key.endswith(f"/{SEAL}") and entry.key.count("/") == depth
    ]
    if not seals:
        return None
    return target / min(seals)[1][len(target.key) + 1 :]


def _fetcher(target: Address, address: Address, known: str) -> Callable[[], bytes]:
    def fetch_one() -> bytes:
        try:
            data = address.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{target}: is damaged ({address.name} is gone). {_MEND}") from None
        if hashlib.sha256(data).hexdigest() != known:
            raise StoreError(f"{target}: is damaged ({address.name} has changed). {_MEND}")
        return data

    return fetch_one


def _mapped(path: Path) -> object:
    """Give a file's content without reading it into memory."""
    if not path.stat().st_size:
        return b""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        return file.read_buffer()
