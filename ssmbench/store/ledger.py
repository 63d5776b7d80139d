"""The ledger: the only place that says what counts, written by one driver, append-only.

Exactly once = work done at least once + names that nobody overwrites + one commit record per
(cell, suite), of which the first counts. A worker that finishes after it was given up leaves
files that no commit names.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError
from ssmbench.store import atomic
from ssmbench.store.attempts import SuiteMark, read_mark, read_suite_marks
from ssmbench.store.contents import check_record, read_contents, segments
from ssmbench.store.lock import RunLock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from ssmbench.plan.cells import Cell, Suite
    from ssmbench.plan.history import History
    from ssmbench.store.folder import RunFolder

BEAT_EVERY_S = 15.0

_log = logging.getLogger(__name__)


def read_history(folder: RunFolder) -> History:
    """Read what a run folder holds; safe while a driver is writing.

    Raises:
        StoreError: the ledger is damaged; the message names the file and line.
    """
    return read_contents(folder).history


class Ledger:
    """The driver's hold on a run folder. Use it as a context manager, or call `close`.

    A thread gives the lock's sign of life, so that a driver that computes for minutes in its
    own process keeps it.
    """

    def __init__(self, folder: RunFolder, lock: RunLock, *, beat_every_s: float) -> None:
        self.folder = folder
        self._lock = lock
        self._descriptor: int | None = None
        self._broken = False
        self._contents = read_contents(folder)
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep_beating, args=(beat_every_s,), daemon=True)
        self._beat.start()

    @classmethod
    def open(
        cls,
        folder: RunFolder,
        *,
        steal: bool = False,
        now: Callable[[], float] = time.time,
        beat_every_s: float = BEAT_EVERY_S,
    ) -> Ledger:
        """Take the lock and read what is there.

        Args:
            folder: the run folder.
            steal: take the lock from a living driver too.
            now: the clock, Unix seconds.
            beat_every_s: seconds between signs of life; a lock is stale after 60.

        Raises:
            StoreError: another driver is at work (named), or the ledger is damaged.
        """
        lock = RunLock.take(folder, steal=steal, now=now)
        try:
            return cls(folder, lock, beat_every_s=beat_every_s)
        except BaseException:
            lock.release()
            raise

    @property
    def history(self) -> History:
        """What the folder holds, kept up to date by `append`."""
        return self._contents.history

    def append(self, record: Mapping[str, Any]) -> bool:
        """Add one record; it is on the disk on return.

        A commit is checked against the worker's mark and takes its tables and facts from
        there. Records that would say nothing new (a second commit of the same suite, a cell
        as it already stands) are not written.

        Args:
            record: JSON with "event" and the fields of that event:
                cell: id, cell (`Cell.to_json()`), suites (suite id -> `Suite.to_json()`);
                commit: cell, suite (id), suite_json, attempt;
                failed: cell, suites (ids), attempt, error_class, message, log, final;
                run: anything.

        Returns:
            Whether it was written.

        Raises:
            StoreError: another driver has taken over, the commit's files are not whole, or
                the disk refuses; the ledger is then as it was before.
        """
        record = {**record, "at_s": time.time()}
        problem = check_record({"files": None, "facts": None, **record})
        if problem:
            raise ValueError(f"a record of event {record.get('event')!r} {problem}")
        if record.get("event") == "commit" and not self._known(record):
            mark = read_mark(self.folder, record["cell"], record["attempt"], record["suite"])
            record |= {"files": mark.files, "facts": mark.facts, "seconds": mark.seconds}
        if self._known(record):
            return False
        self._lock.check()
        self._write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._contents.add(record)
        return True

    def cell(self, cell: Cell, suites: Sequence[Suite]) -> bool:
        """Note a planned cell and the suites that the grid wants of it; see `append`."""
        ids = tuple(suite.id for suite in suites)
        if cell.id in self.history.cells and self.history.wanted.get(cell.id, ()) == ids:
            return False  # What `append` would find, without spelling it out.
        wanted = {suite.id: suite.to_json() for suite in suites}
        return self.append(
            {"event": "cell", "id": cell.id, "cell": cell.to_json(), "suites": wanted}
        )

    def commit(self, mark: SuiteMark) -> bool:
        """Make a worker's suite count, unless another attempt's counts already."""
        return self.append(
            {
                "event": "commit",
                "cell": mark.cell_id,
                "suite": mark.suite_id,
                "suite_json": mark.suite,
                "attempt": mark.attempt_id,
            }
        )

    def adopt(self) -> list[SuiteMark]:
        """Commit the whole suites on disk that no commit names; give those committed.

        Only cells that the ledger knows are adopted.
        """
        marks = read_suite_marks(self.folder, skip=self.history.committed)
        return [m for m in marks if m.cell_id in self.history.cells and self.commit(m)]

    def heartbeat(self) -> None:
        """Give a sign of life now.

        Raises:
            StoreError: another driver has taken over.
        """
        self._lock.beat()

    def close(self) -> None:
        """Let go of the lock and the segment; harmless when repeated."""
        self._stop.set()
        self._beat.join()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        try:
            self._lock.release()
        except OSError as problem:  # The next driver will see that this process is gone.
            _log.warning("%s: the lock was not released: %s", self.folder.path, problem)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _known(self, record: Mapping[str, Any]) -> bool:
        """Whether the ledger says this already."""
        history = self.history
        if record.get("event") == "commit":
            return (record["cell"], record["suite"]) in history.committed
        if record.get("event") == "cell":
            same_wish = history.wanted.get(record["id"], ()) == tuple(record.get("suites", ()))
            return record["id"] in history.cells and same_wish
        return False

    def _write(self, line: bytes) -> None:
        """Append one line, or leave the segment as it was."""
        if self._broken:
            raise StoreError(f"{self.folder.ledger_dir}: could not be written before; stopped.")
        try:
            descriptor = self._open_segment()
            size = os.fstat(descriptor).st_size
            try:
                atomic.write_all(descriptor, line)
                os.fsync(descriptor)
            except BaseException:
                # Half a line must stay the last one: cut it off, or write nothing more.
                self._broken = True
                os.ftruncate(descriptor, size)
                self._broken = False
                raise
        except OSError as problem:
            raise StoreError(
                f"{self.folder.ledger_dir}: cannot be written ({problem.strerror})."
                " Make room and run again; finished suites are kept."
            ) from problem

    def _open_segment(self) -> int:
        """Create this driver's own segment at its first record."""
        if self._descriptor is None:
            atomic.make_folder(self.folder.ledger_dir)
            last = segments(self.folder)
            number = int(last[-1].name.split("-")[0]) + 1 if last else 1
            path = self.folder.ledger_dir / f"{number:06d}-{uuid.uuid4().hex}.jsonl"
            self._descriptor = os.open(
                path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o666
            )
            atomic.sync_folder(self.folder.ledger_dir)
        return self._descriptor

    def _keep_beating(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            try:
                self._lock.beat()
            except StoreError as problem:
                _log.warning("%s", problem)
                return
            except OSError as problem:
                _log.warning("%s: no sign of life: %s", self.folder.path, problem)
