"""One Parquet file per table, derived from the committed attempts; may be deleted any time."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ssmbench.store import atomic, sealed
from ssmbench.store.address import Address
from ssmbench.store.columns import TABLES
from ssmbench.store.contents import read_contents
from ssmbench.store.read import live_tables

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.store.address import Place
    from ssmbench.store.folder import RunFolder


def compact(folder: RunFolder) -> Place:
    """Write compact/KEY/TABLE.parquet, where KEY names the ledger's present state.

    The folder appears in one step. The one before it stays, since somebody may be reading it;
    older ones go.

    Returns:
        The folder with a file for each table.

    Raises:
        StoreError: the ledger is damaged or a committed file is gone.
    """
    contents = read_contents(folder)
    target = folder.compact_dir / contents.key
    if not target.is_dir():
        frames = live_tables(folder, contents)
        with atomic.new_folder(target) as temporary:
            for table in TABLES:
                data = atomic.parquet_bytes(frames[table].collect())
                atomic.write_synced(temporary / f"{table}.parquet", data)
            seal = sealed.write(temporary, {"compact": contents.key})
            atomic.write_synced(temporary / sealed.SEAL, seal)
    if isinstance(target, Address):
        _drop_older_objects(target)
    else:
        _drop_older(target)
    return target


def _drop_older(target: Path) -> None:
    """Remove all compacted states but the newest other."""
    others = [p for p in target.parent.iterdir() if p != target and not p.name.startswith(".")]
    for path in sorted(others, key=lambda p: p.stat().st_mtime)[:-1]:
        # Renamed first, so that nobody finds it with half of its files.
        doomed = atomic.temporary_beside(path)
        path.rename(doomed)
        shutil.rmtree(doomed)


def _drop_older_objects(target: Address) -> None:
    """Do the same in an object store."""
    newest: dict[str, float] = {}
    start = len(target.parent.key) + 1
    for entry in target.parent.below():
        name = entry.key[start:].partition("/")[0]
        newest[name] = max(newest.get(name, 0.0), entry.written_s)
    newest.pop(target.name, None)
    for name in sorted(newest, key=lambda n: newest[n])[:-1]:
        sealed.remove(target.parent / name)
