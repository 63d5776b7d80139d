"""Reading the ledger: every segment in order, merged into what the run folder holds.

A line counts from the moment it ends in a newline. The last line of a segment may be torn,
since a driver may die in the middle of it; a damaged line before that is damage.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Any

from ssmbench.errors import StoreError
from ssmbench.plan.history import Failure, History
from ssmbench.store import segments as ledger_segments
from ssmbench.store.columns import SCHEMA_VERSION, TABLES, schema
from ssmbench.store.lines import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ssmbench.store.address import Place
    from ssmbench.store.folder import AttemptFile, RunFolder

_log = logging.getLogger(__name__)

# event -> the fields that a record of it has; other events are another version's business.
_TEXT, _TEXT_OR_NOTHING = (str,), (str, NoneType)
EVENTS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "run": {},
    "cell": {"id": _TEXT, "cell": (dict,)},
    "commit": {
        **dict.fromkeys(("cell", "suite", "attempt"), _TEXT),
        **dict.fromkeys(("suite_json", "files", "facts"), (dict,)),
    },
    "failed": {
        **dict.fromkeys(("cell", "error_class", "message"), _TEXT),
        **dict.fromkeys(("attempt", "log"), _TEXT_OR_NOTHING),
        "suites": (list,),
        "final": (bool,),
    },
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
        # A poisoned cell fails without an attempt.
        if record["attempt"] is not None and record["attempt"] not in self._attempts:
            self._attempts.add(record["attempt"])
            counts = self.history.attempts
            counts[record["cell"]] = counts.get(record["cell"], 0) + 1


def segments(folder: RunFolder) -> list[Place]:
    """List the ledger's segments, oldest first."""
    return [segment.place for segment in ledger_segments.listed(folder.ledger_dir)]


def read_contents(folder: RunFolder) -> Contents:
    """Read and merge the whole ledger.

    Raises:
        StoreError: a line is damaged; the message names the file and line.
    """
    contents = Contents()
    sizes = []
    for place, data in ledger_segments.read(folder.ledger_dir):
        sizes.append((place.name, len(data)))
        for number, record in _records(place, data):
            try:
                contents.add(record)
            except (TypeError, KeyError, AttributeError, ValueError) as problem:
                raise _damage(place, number, f"cannot be meant ({problem})") from None
    contents.key = _key(sizes, _outcome_names(folder.attempt_files()))
    return contents


def state_key(folder: RunFolder) -> str:
    """Give the key that `read_contents` would, without reading a segment."""
    found = ledger_segments.listed(folder.ledger_dir)
    sizes = [(place.name, n_bytes) for place, n_bytes in found]
    return _key(sizes, _outcome_names(folder.attempt_files()))


def check_record(record: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a record, or None."""
    fields = EVENTS.get(str(record.get("event")), {})
    missing = set(fields) - set(record)
    if missing:
        return f"lacks {', '.join(sorted(missing))}"
    wrong = [name for name, types in fields.items() if not isinstance(record[name], types)]
    inside = {
        "suites": _are_suites(record.get("suites", {})),
        "files": _are_files(record.get("files")),
    }
    wrong += [name for name, fits in inside.items() if not fits]
    return f"has no such thing as {', '.join(sorted(set(wrong)))} should be" if wrong else None


def _are_suites(value: Any) -> bool:
    """Whether a value can be a record's suites: by id, or the ids alone; or it has none."""
    if isinstance(value, dict):
        return all(isinstance(suite, dict) for suite in value.values())
    return isinstance(value, list) and all(isinstance(i, str) for i in value)


def _are_files(value: Any) -> bool:
    """Whether a value can be a record's files, by table; or it has none."""
    files = list(value.values()) if isinstance(value, dict) else []
    return all(isinstance(f, dict) and isinstance(f.get("sha256"), str) for f in files)


def _records(path: Place, data: bytes) -> Iterable[tuple[int, dict[str, Any]]]:
    """Give each record with the number of its line."""
    *lines, tail = data.split(b"\n")
    if tail:
        _log.info("%s: the last line is torn and ignored", path)
    for number, line in enumerate(lines, start=1):
        try:
            record = decode(line)
            problem = check_record(record)
        except ValueError as error:
            if number == len(lines) and not tail:
                _log.warning("%s:%d: the last line is damaged and ignored", path, number)
                return
            problem = str(error)
        if problem:
            raise _damage(path, number, problem)
        yield number, record


def _damage(path: Place, number: int, problem: str) -> StoreError:
    return StoreError(
        f"{path}:{number}: {problem}; the ledger is damaged there. Delete that line"
        " and run again: suites whose files are whole are committed anew."
    )


def _outcome_names(files: Iterable[AttemptFile]) -> list[str]:
    return sorted(f"{f.cell_id}.{f.attempt_id}" for f in files if f.suite_id is None)


def _key(sizes: list[tuple[str, int]], outcomes: list[str]) -> str:
    # With the columns: a compaction by a version that knew fewer of them is not read as whole.
    columns = {table: list(schema(table)) for table in TABLES}
    text = json.dumps([SCHEMA_VERSION, "sealed", columns, sizes, outcomes])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
