"""What must hold at every moment, whoever reads: what is there is whole, right, and stays."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError
from ssmbench.store import attempts
from ssmbench.store.contents import read_contents
from ssmbench.store.folder import RunFolder
from ssmbench.store.read import live_tables, tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Key = tuple[str, str]
# A cell's suite in all bits: every row of its metrics and samples, in an order of their own.
Numbers = dict[Key, tuple[tuple[Any, ...], ...]]
_COLUMNS = {
    "metrics": ("task", "metric", "value", "stderr", "n", "limit", "chance", "best", "reason"),
    "samples": ("task", "doc_id", "metric", "value", "weight"),
}


def numbers(frames: Mapping[str, Any]) -> Numbers:
    """Give what was measured, by (cell, suite); floats are told apart to the last bit."""
    found: dict[Key, list[tuple[Any, ...]]] = {}
    for table, columns in _COLUMNS.items():
        frame = frames[table].select("cell_id", "suite_id", *columns).collect()
        for cell_id, suite_id, *rest in frame.iter_rows():
            row = (table, *(v.hex() if isinstance(v, float) else v for v in rest))
            found.setdefault((cell_id, suite_id), []).append(row)
    return {key: tuple(sorted(rows, key=repr)) for key, rows in found.items()}


class Watcher(threading.Thread):
    """Reads a run folder over and over, and notes whatever a reader must never see."""

    def __init__(self, path: Path, expected: Numbers, damaged: set[str]) -> None:
        """Make one.

        Args:
            path: the run folder; it may not be there yet.
            expected: the numbers of a run that nothing happened to.
            damaged: names of attempt files that were damaged on purpose; grows meanwhile.
        """
        super().__init__(daemon=True)
        self.path, self.expected, self.damaged = path, expected, damaged
        self.seen: list[str] = []
        self.n_reads = 0
        self._counted: dict[Key, str] = {}
        self._whole: set[str] = set()
        self._done = threading.Event()

    def run(self) -> None:
        """Read until told to stop."""
        while not self._done.wait(0.2):
            if not (self.path / "run.json").exists():
                continue
            try:
                self._look()
            except StoreError as error:
                self._note(f"a reader was refused: {error}")
            except Exception as error:  # noqa: BLE001 - anything that a reader meets is a finding
                self._note(f"a reader met {type(error).__name__}: {error}")
            self.n_reads += 1

    def stop(self) -> None:
        """Stop after the present look."""
        self._done.set()
        self.join()

    def _note(self, text: str) -> None:
        if text not in self.seen:
            self.seen.append(text)

    def _look(self) -> None:
        folder = RunFolder.open(self.path)
        contents = read_contents(folder)
        committed = contents.history.committed
        for key, attempt in self._counted.items():
            if committed.get(key) != attempt:
                self._note(f"{key}: counted as of attempt {attempt}, then as {committed.get(key)}")
        self._counted = dict(committed)
        self._compare(live_tables(folder, contents), committed)
        self._compare(tables(folder), committed)
        self._check_files(folder)

    def _compare(self, frames: Mapping[str, Any], committed: Mapping[Key, str]) -> None:
        found = numbers(frames)
        for key in committed:
            if found.get(key) != self.expected.get(key):
                n = len(found.get(key, ()))
                self._note(f"{key}: is committed and shows {n} rows that are not the right ones")

    def _check_files(self, folder: RunFolder) -> None:
        """Every file that has its name is whole, whether it counts or not."""
        for file in folder.attempt_files():
            if file.location in self._whole:
                continue
            self._whole.add(file.location)
            name = f"{file.cell_id}.{file.attempt_id}"
            try:
                if file.suite_id is None:
                    json.loads(file.path.read_bytes())
                else:
                    attempts.read_mark(folder, file.cell_id, file.attempt_id, file.suite_id)
            except FileNotFoundError:
                continue  # A full disk: the writer took it back.
            except (ValueError, StoreError) as error:
                if not any(name in known for known in self.damaged) and file.path.exists():
                    self._note(f"partial: {error}")


def commits(path: Path) -> list[Key]:
    """Read every commit from the ledger's own lines, also those that do not count."""
    found = []
    for segment in sorted((path / "ledger").glob("*.jsonl")):
        for line in segment.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            record = json.loads(line)
            if record["event"] == "commit":
                found.append((record["cell"], record["suite"]))
    return found


def uncommitted_marks(path: Path, damaged: set[str]) -> list[Path]:
    """List marks of whole suites that no commit names yet, without those in `damaged`."""
    folder = RunFolder.open(path)
    known = read_contents(folder).history.committed
    return [
        f.path
        for f in folder.attempt_files()
        if f.suite_id and (f.cell_id, f.suite_id) not in known and f.path.stem not in damaged
    ]


def wait_until(condition: Any, seconds: float) -> bool:
    """Wait for something; say whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
