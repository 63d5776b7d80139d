"""The ledger: the only place that says what counts, written by one driver, append-only.

Exactly once = work done at least once + names that nobody overwrites + one commit record per
(cell, suite), of which the first counts. A worker that finishes after it was given up leaves
files that no commit names.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError
from ssmbench.store import lines, segments
from ssmbench.store.attempts import SuiteMark, read_mark, read_suite_marks
from ssmbench.store.contents import check_record, read_contents
from ssmbench.store.lock import RunLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
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
        self._segment: segments.Writer | None = None
        self._waiting: list[bytes] | None = None
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

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Write what is appended in the block at its end, in one go.

        Inside the block the records count for `history`; they are on the disk when it has ended,
        also if it ends with an error.

        Raises:
            StoreError: as for `append`; the ledger then takes nothing more, since `history` is
                ahead of it.
        """
        if self._waiting is not None:  # A batch within a batch is part of it.
            yield
            return
        self._waiting = []
        try:
            yield
        finally:
            waiting, self._waiting = self._waiting, None
            if waiting:
                self._broken = True
                self._lock.check()
                self._write(waiting)
                self._broken = False

    def append(self, record: Mapping[str, Any]) -> bool:
        """Add one record; it is on the disk on return, or at the end of the `batch`.

        A commit without files is checked against the worker's mark and takes its tables and
        facts from there. Records that would say nothing new (a second commit of the same
        suite, a cell as it already stands) are not written.

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
        problem = check_record({"files": {}, "facts": {}, **record})
        if problem:
            raise ValueError(f"a record of event {record.get('event')!r} {problem}")
        if record.get("event") == "commit" and "files" not in record and not self._known(record):
            mark = read_mark(self.folder, record["cell"], record["attempt"], record["suite"])
            record |= {"files": mark.files, "facts": mark.facts, "seconds": mark.seconds}
        if self._known(record):
            return False
        line = lines.encode(record)
        if self._broken:
            raise StoreError(f"{self.folder.ledger_dir}: could not be written before; stopped.")
        if self._waiting is not None:
            self._waiting.append(line)
        else:
            self._lock.check()
            self._write([line])
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

    def commit(self, mark: SuiteMark, *, verified: bool = False) -> bool:
        """Make a worker's suite count, unless another attempt's counts already.

        Args:
            mark: of the suite.
            verified: `read_mark` gave it a moment ago, so its files need not be read again.
        """
        record: dict[str, Any] = {
            "event": "commit",
            "cell": mark.cell_id,
            "suite": mark.suite_id,
            "suite_json": mark.suite,
            "attempt": mark.attempt_id,
        }
        if verified:
            record |= {"files": mark.files, "facts": mark.facts, "seconds": mark.seconds}
        return self.append(record)

    def adopt(self) -> list[SuiteMark]:
        """Commit the whole suites on disk that no commit names; give those committed.

        Only cells that the ledger knows are adopted.
        """
        marks = read_suite_marks(self.folder, skip=self.history.committed)
        with self.batch():
            known = [m for m in marks if m.cell_id in self.history.cells]
            return [m for m in known if self.commit(m, verified=True)]

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
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        try:
            self._lock.release()
        except (
            OSError,
            StoreError,
        ) as problem:  # The next driver will see that this process is gone.
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

    def _write(self, added: Sequence[bytes]) -> None:
        """Add lines to this driver's own segment, which is made at its first record."""
        try:
            if self._segment is None:
                self._segment = segments.writer(self.folder.ledger_dir)
            self._segment.write(added)
        except StoreError:
            raise
        except OSError as problem:
            raise StoreError(
                f"{self.folder.ledger_dir}: cannot be written ({problem.strerror})."
                " Make room and run again; finished suites are kept."
            ) from problem

    def _keep_beating(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            try:
                self._lock.beat()
            except OSError as problem:
                _log.warning("%s: no sign of life: %s", self.folder.path, problem)
            except StoreError as problem:
                _log.warning("%s", problem)
                return
