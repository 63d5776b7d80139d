"""The tables of a run folder, as polars frames that read when they are collected."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import polars as pl

from ssmbench.errors import StoreError
from ssmbench.store import atomic, cache, sealed
from ssmbench.store.address import Address
from ssmbench.store.columns import SUITE_TABLES, TABLES, schema
from ssmbench.store.contents import Contents, read_contents, state_key
from ssmbench.store.derive import attempts_frame, cells_frame

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ssmbench.store.folder import RunFolder

_GONE = (
    "is gone, but the ledger counts on it. Restore it, or delete the commit's line in ledger/"
    " and run again."
)
_CHANGED = (
    "does not match the checksum in the ledger. Restore it, or delete it and the commit's line"
    " in ledger/, and run again."
)


def tables(folder: RunFolder) -> dict[str, pl.LazyFrame]:
    """Give every table by its name: see store/columns.py.

    Only what the ledger has committed is in them, by cell and suite in the order of the plan. The
    compacted files are read if they were made from the ledger as it stands, else the attempts'
    own. Safe while a driver writes.

    Raises:
        StoreError: the ledger is damaged, or a committed file is gone or damaged.
    """
    place = folder.compact_dir / state_key(folder)
    compact = atomic.local_folder(place)
    if compact is not None:
        sealed.check(compact, mend=f"Delete {place.parent}: it is derived from the rest.")
        files = {table: compact / f"{table}.parquet" for table in TABLES}
        # An older version knew fewer tables.
        if all(file.exists() for file in files.values()):
            return {table: scan([file], table=table) for table, file in files.items()}
    return live_tables(folder, read_contents(folder))


def live_tables(folder: RunFolder, contents: Contents) -> dict[str, pl.LazyFrame]:
    """Give the tables from the attempts' own files, for this state of the ledger."""
    found = {table: _committed_files(folder, contents, table) for table in SUITE_TABLES}
    frames: Mapping[str, pl.LazyFrame] = {t: scan(p, table=t) for t, p in found.items()}
    cells, attempts = cells_frame(contents).lazy(), attempts_frame(folder, contents).lazy()
    return {"cells": cells, **frames, "attempts": attempts}


def scan(paths: list[Path], *, table: str) -> pl.LazyFrame:
    """Read files of one table, written by any version, as the columns of this one."""
    if not paths:
        return pl.LazyFrame(schema=schema(table))
    return pl.scan_parquet(
        paths,
        schema=schema(table),
        missing_columns="insert",
        extra_columns="ignore",
        glob=False,
        hive_partitioning=False,
    )


def _committed_files(folder: RunFolder, contents: Contents, table: str) -> list[Path]:
    """Give the files of one table, local and as the ledger knows them, in the plan's order."""
    wanted = {
        folder.table_file(cell_id, record["attempt"], suite_id, table): record["files"][table]
        for (cell_id, suite_id), record in _planned(contents)
        if table in record["files"]
    }
    addresses = [(p, f["sha256"]) for p, f in wanted.items() if isinstance(p, Address)]
    if addresses:
        return cache.copies(addresses, gone=_GONE, changed=_CHANGED)
    paths = [p for p in wanted if not isinstance(p, Address)]
    for path in paths:
        data = _read(path)
        if hashlib.sha256(data).hexdigest() != wanted[path]["sha256"]:
            raise StoreError(f"{path}: {_CHANGED}")
    return paths


def _planned(contents: Contents) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """Give the commits by cell and suite as they were planned: which ended first is chance."""
    history = contents.history
    cells = {cell_id: i for i, cell_id in enumerate(history.cells)}
    suites = {suite_id: i for i, suite_id in enumerate(history.suites)}

    def place(commit: tuple[tuple[str, str], dict[str, Any]]) -> tuple[int, int]:
        (cell_id, suite_id), _ = commit
        return cells.get(cell_id, len(cells)), suites[suite_id]

    return sorted(contents.commits.items(), key=place)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path}: {_GONE}") from None
    except OSError as problem:
        raise StoreError(f"{path}: cannot be read ({problem.strerror}).") from None
