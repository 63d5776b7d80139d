"""What a worker writes: each suite at once and whole, then how the attempt ended.

A suite's tables come first and its mark last, with their checksums: a mark on the disk means
that all of it is there. Whether it counts is for the ledger to say.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError, UnreachableError
from ssmbench.store import atomic
from ssmbench.store.address import read_all
from ssmbench.store.columns import SUITE_TABLES
from ssmbench.store.lines import decode, encode
from ssmbench.store.rows import suite_frame

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from ssmbench.plan.cells import Suite
    from ssmbench.store.address import Place
    from ssmbench.store.folder import RunFolder

_log = logging.getLogger(__name__)
_MEND_OUTCOME = (
    "Delete it: only the table of attempts knows less then; what the attempt measured is kept."
)
_NAME = re.compile(r"[0-9A-Za-z_-]+")


@dataclass(frozen=True)
class SuiteMark:
    """A suite that an attempt has written whole.

    Attributes:
        cell_id: the measured cell.
        attempt_id: who measured it.
        suite_id: the suite's id.
        suite: `Suite.to_json()`.
        files: table -> {"sha256", "n_bytes", "n_rows"}; a table without rows has no file.
        facts: columns of `cells` that the attempt measured (see store/columns.py).
        seconds: how long the suite took, or None.
        written_s: Unix time of writing, by the worker's clock.
    """

    cell_id: str
    attempt_id: str
    suite_id: str
    suite: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]
    seconds: float | None
    written_s: float


def write_suite(
    folder: RunFolder,
    *,
    cell_id: str,
    attempt_id: str,
    suite: Suite,
    result_rows: Mapping[str, Sequence[Mapping[str, Any]]],
    facts: Mapping[str, Any],
    seconds: float | None = None,
    backend: str | None = None,
    compute_dtype: str | None = None,
) -> SuiteMark:
    """Write one finished suite: its tables, then the mark that makes it whole.

    Args:
        folder: the run folder.
        cell_id: the measured cell.
        attempt_id: this attempt's unique name; letters, digits, `-` and `_`.
        suite: what was measured.
        result_rows: any of SUITE_TABLES -> rows without the three ids.
        facts: columns of `cells` measured on the compressed model; null where unknown.
        seconds: how long the suite took, for later estimates.
        backend: whose kernels computed it (see kernels/backends.py); None where none did.
        compute_dtype: what projections ran in (see models/precision.py).

    Returns:
        The mark, as written.

    Raises:
        StoreError: this attempt has written this suite before, or the disk is full.
        NumericalError: a number is NaN or infinite.
    """
    for name in (cell_id, attempt_id):
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' cannot be part of a file name")
    frames = {
        table: suite_frame(
            table,
            result_rows[table],
            cell_id=cell_id,
            suite=suite,
            backend=backend,
            compute_dtype=compute_dtype,
        )
        for table in SUITE_TABLES
        if result_rows.get(table)
    }
    tables = {table: atomic.parquet_bytes(frame) for table, frame in frames.items()}
    mark = SuiteMark(
        cell_id=cell_id,
        attempt_id=attempt_id,
        suite_id=suite.id,
        suite=suite.to_json(),
        files={t: {**_sum(data), "n_rows": frames[t].height} for t, data in tables.items()},
        facts=dict(facts),
        seconds=seconds,
        written_s=time.time(),
    )
    _write_whole(folder, mark, tables)
    return mark


def _write_whole(folder: RunFolder, mark: SuiteMark, tables: Mapping[str, bytes]) -> None:
    """Write a suite's tables and then its mark, or nothing."""
    names = mark.cell_id, mark.attempt_id, mark.suite_id
    mark_file = folder.mark_file(*names)
    if mark_file.exists():
        raise StoreError(f"{mark_file}: is there already; an attempt writes a suite once.")
    written: list[tuple[Place, bytes]] = [
        (folder.table_file(*names, table), data) for table, data in tables.items()
    ]
    written.append((mark_file, encode(dataclasses.asdict(mark))))
    try:
        atomic.write_together(written)
    except UnreachableError:
        raise  # Tables without their mark are nothing, and removing them would wait as long.
    except OSError as problem:
        for path, _ in reversed(written):  # The mark first: it must not outlive its tables.
            path.unlink(missing_ok=True)
        raise StoreError(
            f"{mark_file.parent}: suite {mark.suite['name']} could not be written"
            f" ({problem.strerror}); nothing of it is kept. Make room and run again."
        ) from problem


def write_outcome(folder: RunFolder, outcome: Mapping[str, Any]) -> None:
    """Write how an attempt ended; its presence says that the attempt wrote all it had.

    Args:
        folder: the run folder.
        outcome: JSON with at least cell_id, attempt_id and status; the other columns of
            `attempts` where known, and whatever else is worth keeping.

    Raises:
        StoreError: this attempt has an outcome already.
        OSError: the disk is full; nothing is visible.
    """
    path = folder.outcome_file(outcome["cell_id"], outcome["attempt_id"])
    try:
        atomic.write_bytes(path, encode(outcome))
    except FileExistsError:
        raise StoreError(f"{path}: is there already; an attempt ends once.") from None


def read_mark(folder: RunFolder, cell_id: str, attempt_id: str, suite_id: str) -> SuiteMark:
    """Read one suite's mark and check its files against it.

    Raises:
        StoreError: there is no such mark, or a file is missing or differs from its checksum.
    """
    path = folder.mark_file(cell_id, attempt_id, suite_id)
    try:
        mark = SuiteMark(**decode(path.read_bytes()))
        expected_sums = {table: str(known["sha256"]) for table, known in mark.files.items()}
    except FileNotFoundError:
        raise StoreError(f"{path}: is missing; that suite was not written whole.") from None
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise StoreError(f"{path}: is not a suite's mark ({problem}).") from None
    for table, expected in expected_sums.items():
        data_file = folder.table_file(cell_id, attempt_id, suite_id, table)
        try:
            found = _sum(data_file.read_bytes())
        except FileNotFoundError:
            raise StoreError(f"{data_file}: is missing, but {path.name} lists it.") from None
        if found["sha256"] != expected:
            raise StoreError(f"{data_file}: does not match the checksum in {path.name}.")
    return mark


def read_suite_marks(
    folder: RunFolder, *, skip: Container[tuple[str, str]] = ()
) -> list[SuiteMark]:
    """List the suites that are whole on the disk, oldest first, checksums verified.

    A driver that died between a worker's write and its own commit leaves such suites behind;
    the next one commits them instead of measuring again. Damaged ones are logged and left out.

    Args:
        folder: the run folder.
        skip: (cell id, suite id) pairs that are committed already; their files are not read.
    """
    marks = []
    for file in folder.attempt_files():
        if file.suite_id is None or (file.cell_id, file.suite_id) in skip:
            continue
        try:
            marks.append(read_mark(folder, file.cell_id, file.attempt_id, file.suite_id))
        except StoreError as problem:
            _log.warning("not adopted: %s", problem)
    return sorted(marks, key=lambda m: (m.written_s, m.attempt_id, m.suite_id))


def read_outcomes(paths: Sequence[Place]) -> list[dict[str, Any]]:
    """Read outcome files.

    Raises:
        StoreError: one is damaged.
    """
    outcomes = []
    for path, data in zip(paths, read_all(paths), strict=True):
        try:
            outcomes.append(decode(data or b""))
        except ValueError as problem:
            raise StoreError(f"{path}: {problem}. {_MEND_OUTCOME}") from None
    return outcomes


def _sum(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "n_bytes": len(data)}
