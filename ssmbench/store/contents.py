"""Reading the ledger: every segment in order, merged into what the run folder holds.

A line counts from the moment it ends in a newline. The last line of a segment may be torn,
since a driver may die in the middle of it; a damaged line before that is damage.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError
from ssmbench.plan.history import Failure, History
from ssmbench.store.columns import SCHEMA_VERSION, TABLES, schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ssmbench.store.folder import AttemptFile, RunFolder

_log = logging.getLogger(__name__)

# event -> the fields that a record of it has; other events are another version's business.
EVENTS: Mapping[str, frozenset[str]] = {
    "run": frozenset(),
    "cell": frozenset({"id", "cell"}),
    "commit": frozenset({"cell", "suite", "suite_json", "attempt", "files", "facts"}),
    "failed": frozenset({"cell", "suites", "attempt", "error_class", "message", "log", "final"}),
}


@dataclass
class Contents:
    """The merged ledger.

    Attributes:
        history: what the plan needs of it.
        commits: (cell id, suite id) -> the commit record that counts, in ledger order.
        failures: every "failed" record, in ledger order.
        runs: every "run" record: one for each start of a driver.
        key: names this state of the ledger and the outcomes; equal keys mean equal tables.
    """

    history: History = field(default_factory=History)
    commits: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    key: str = ""
    _attempts: set[str] = field(default_factory=set)

    def add(self, record: Mapping[str, Any]) -> None:
        """Merge one valid record; the first commit of a (cell, suite) wins."""
        kind = record.get("event")
        if kind == "cell":
            self._add_cell(record)
        elif kind == "commit":
            self._add_commit(dict(record))
        elif kind == "failed":
            self._add_failure(dict(record))
        elif kind == "run":
            self.runs.append(dict(record))

    def _add_cell(self, record: Mapping[str, Any]) -> None:
        cell_id = record["id"]
        self.history.cells.setdefault(cell_id, record["cell"])
        if "suites" in record:
            self.history.suites.update(record["suites"])
            self.history.wanted[cell_id] = tuple(record["suites"])

    def _add_commit(self, record: dict[str, Any]) -> None:
        history = self.history
        key = (record["cell"], record["suite"])
        self._count(record)
        if key in history.committed:
            return
        self.commits[key] = record
        history.committed[key] = record["attempt"]
        history.suites.setdefault(record["suite"], record["suite_json"])
        history.failed.pop(key, None)
        if record.get("seconds") is not None:
            history.seconds[key] = record["seconds"]

    def _add_failure(self, record: dict[str, Any]) -> None:
        self.failures.append(record)
        self._count(record)
        failure = Failure(record["error_class"], record["message"], record["log"])
        for suite_id in record["suites"]:
            key = (record["cell"], suite_id)
            if key in self.history.committed:
                continue
            if record["final"]:
                self.history.failed[key] = failure
            else:  # A retry was meant to follow: until it ends, the suite is to do.
                self.history.failed.pop(key, None)

    def _count(self, record: Mapping[str, Any]) -> None:
        if record["attempt"] not in self._attempts:
            self._attempts.add(record["attempt"])
            counts = self.history.attempts
            counts[record["cell"]] = counts.get(record["cell"], 0) + 1


def segments(folder: RunFolder) -> list[Path]:
    """List the ledger's segments, oldest first."""
    return sorted(folder.ledger_dir.glob("[0-9]*.jsonl"))


def read_contents(folder: RunFolder) -> Contents:
    """Read and merge the whole ledger.

    Raises:
        StoreError: a line is damaged; the message names the file and line.
    """
    contents = Contents()
    sizes = []
    for path in segments(folder):
        data = path.read_bytes()
        sizes.append((path.name, len(data)))
        for record in _records(path, data):
            contents.add(record)
    contents.key = _key(sizes, _outcome_names(folder.attempt_files()))
    return contents


def state_key(folder: RunFolder) -> str:
    """Give the key that `read_contents` would, without reading a segment."""
    sizes = [(path.name, path.stat().st_size) for path in segments(folder)]
    return _key(sizes, _outcome_names(folder.attempt_files()))


def check_record(record: Any) -> str | None:
    """Say what is wrong with a record, or None."""
    if not isinstance(record, dict):
        return "is not an object"
    missing = EVENTS.get(str(record.get("event")), frozenset()) - set(record)
    return f"lacks {', '.join(sorted(missing))}" if missing else None


def _records(path: Path, data: bytes) -> Iterable[dict[str, Any]]:
    *lines, tail = data.split(b"\n")
    if tail:
        _log.info("%s: the last line is torn and ignored", path)
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines) and not tail:
                _log.warning("%s:%d: the last line is damaged and ignored", path, number)
                return
            problem: str | None = "is not JSON"
        else:
            problem = check_record(record)
        if problem:
            raise StoreError(
                f"{path}:{number}: {problem}; the ledger is damaged there. Delete that line"
                " and run again: suites whose files are whole are committed anew."
            )
        yield record


def _outcome_names(files: Iterable[AttemptFile]) -> list[str]:
    return sorted(f"{f.cell_id}.{f.attempt_id}" for f in files if f.suite_id is None)


def _key(sizes: list[tuple[str, int]], outcomes: list[str]) -> str:
    # With the columns: a compaction by a version that knew fewer of them is not read as whole.
    columns = {table: list(schema(table)) for table in TABLES}
    text = json.dumps([SCHEMA_VERSION, columns, sizes, outcomes])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
