"""The run folder: where everything lies. Paths are joined here and nowhere else.

RUN/
  run.json                                   what this folder is, the first grid
  ledger/NNNNNN-UUID.jsonl                   the driver's, one segment a start
  attempts/CC/CELL.ATTEMPT.SUITE.TABLE.parquet   a worker's, never overwritten
  attempts/CC/CELL.ATTEMPT.SUITE.json        written after those: the suite is whole
  attempts/CC/CELL.ATTEMPT.json              how the attempt ended
  artifacts/KEY/                             shared between cells
  logs/CELL/ATTEMPT.log
  compact/KEY/TABLE.parquet                  derived from the ledger's state KEY
  LOCK/NNNNNN.json                           who drives, and who did
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.errors import StoreError
from ssmbench.store import atomic
from ssmbench.store.columns import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = "ssmbench run"
_OURS = {"run.json", "ledger", "attempts", "artifacts", "logs", "compact", "LOCK"}


class AttemptFile(NamedTuple):
    """A name under attempts/, taken apart; `suite_id` is None for an attempt's outcome.

    Text, since a resume lists tens of thousands and opens few.
    """

    location: str
    cell_id: str
    attempt_id: str
    suite_id: str | None

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.location)


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run folder. `open` or `create` it; the constructor checks nothing."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, grid_text: str, resolved: Any) -> RunFolder:
        """Make `path` a run folder, or open it if it is one already.

        Args:
            path: a folder that does not exist, is empty, or is a run folder.
            grid_text: the grid file verbatim, kept for people.
            resolved: the grid with every default filled in, as JSON.

        Raises:
            StoreError: `path` holds other things, or was written by a newer ssmbench.
        """
        folder = cls(_local(path))
        if folder.run_file.exists():
            return cls.open(path)
        folder._refuse_foreign()
        facts = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "created_by": f"ssmbench {metadata.version('ssmbench')}",
            "created_s": time.time(),
            "grid": grid_text,
            "resolved": resolved,
        }
        try:
            atomic.write_bytes(folder.run_file, _json(facts))
        except FileExistsError:  # Another driver was faster; the lock decides who goes on.
            pass
        except OSError as problem:
            raise StoreError(
                f"{path}: cannot be written ({problem.strerror}). Choose another folder."
            ) from problem
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run folder.

        Raises:
            StoreError: it is missing, is not a run folder, is damaged, or is of a newer schema.
        """
        folder = cls(_local(path))
        facts = folder.facts()
        version = facts.get("schema_version")
        if not isinstance(version, int):
            raise StoreError(f"{folder.run_file}: schema_version is {version!r}, not a number.")
        if version > SCHEMA_VERSION:
            writer = facts.get("created_by", "a newer ssmbench")
            raise StoreError(
                f"{path}: was written by {writer} (schema {version}); ssmbench"
                f" {metadata.version('ssmbench')} reads schema {SCHEMA_VERSION} and older. Upgrade."
            )
        return folder

    def facts(self) -> dict[str, Any]:
        """Read run.json.

        Raises:
            StoreError: there is none, or it is not ours.
        """
        if not self.path.is_dir():
            raise StoreError(f"{self.path}: there is no such run folder.")
        try:
            facts = json.loads(self.run_file.read_bytes())
        except FileNotFoundError:
            raise StoreError(
                f"{self.path}: this is not a run folder (it has no run.json)."
            ) from None
        except ValueError as problem:
            raise StoreError(f"{self.run_file}: is not JSON ({problem}).") from None
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise StoreError(
                f"{self.path}: this run.json is not ours (its format is not '{FORMAT}')."
            )
        return facts

    @property
    def run_file(self) -> Path:
        """What the folder is; its presence makes it a run folder."""
        return self.path / "run.json"

    @property
    def ledger_dir(self) -> Path:
        """The driver's segments."""
        return self.path / "ledger"

    @property
    def lock_dir(self) -> Path:
        """One small file per holder; the highest number holds the lock."""
        return self.path / "LOCK"

    @property
    def attempts_dir(self) -> Path:
        """The workers' files, in one folder for each first two digits of the cell id."""
        return self.path / "attempts"

    @property
    def artifacts_dir(self) -> Path:
        """What cells share, by content key."""
        return self.path / "artifacts"

    @property
    def compact_dir(self) -> Path:
        """Derived tables, one folder for each state of the ledger; may be deleted."""
        return self.path / "compact"

    def table_file(self, cell_id: str, attempt_id: str, suite_id: str, table: str) -> Path:
        """Where an attempt writes one table of one suite."""
        return self._attempt(cell_id, f"{attempt_id}.{suite_id}.{table}.parquet")

    def mark_file(self, cell_id: str, attempt_id: str, suite_id: str) -> Path:
        """The file whose presence says that the suite's tables are whole."""
        return self._attempt(cell_id, f"{attempt_id}.{suite_id}.json")

    def outcome_file(self, cell_id: str, attempt_id: str) -> Path:
        """How the attempt ended."""
        return self._attempt(cell_id, f"{attempt_id}.json")

    def log_file(self, cell_id: str, attempt_id: str) -> Path:
        """Where the attempt's output goes."""
        return self.path / "logs" / cell_id / f"{attempt_id}.log"

    def relative(self, path: Path) -> str:
        """Give a path below the run folder as it is stored: relative, with `/`."""
        return path.relative_to(self.path).as_posix()

    def attempt_files(self) -> Iterator[AttemptFile]:
        """List the JSON files under attempts/ (marks and outcomes), in no order."""
        for name, location in self._scan():
            parts = name.split(".")
            if parts[-1] == "json" and len(parts) in {3, 4}:
                suite_id = parts[2] if len(parts) == 4 else None
                yield AttemptFile(location, parts[0], parts[1], suite_id)

    def _scan(self) -> Iterator[tuple[str, str]]:
        """List names and paths of all files under attempts/ but temporary ones."""
        if not self.attempts_dir.is_dir():
            return
        with os.scandir(self.attempts_dir) as shelves:
            names = [shelf.path for shelf in shelves if shelf.is_dir()]
        for shelf_path in names:
            with os.scandir(shelf_path) as entries:
                for entry in entries:
                    if not entry.name.startswith(atomic.TEMPORARY):
                        yield entry.name, entry.path

    def _attempt(self, cell_id: str, rest: str) -> Path:
        return self.attempts_dir / cell_id[:2] / f"{cell_id}.{rest}"

    def _refuse_foreign(self) -> None:
        """Refuse to settle in a folder that holds something else."""
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"{self.path}: is a file; a run needs a folder.")
        if not self.path.is_dir():
            return
        names = sorted(p.name for p in self.path.iterdir())
        foreign = [n for n in names if n not in _OURS and not n.startswith(atomic.TEMPORARY)]
        if foreign:
            seen = ", ".join(f"'{n}'" for n in foreign[:3]) + (", …" if len(foreign) > 3 else "")
            raise StoreError(
                f"{self.path}: holds {seen} and no run.json, so it is not a run folder."
                " Choose an empty or new folder."
            )


def _local(path: Path) -> Path:
    """Refuse addresses: `Path` would quietly make a folder called `s3:`."""
    if re.match(r"[a-z][a-z0-9+]+:/", str(path)):
        raise StoreError(f"{path}: is an address; a run folder is a local or NFS path.")
    return Path(path)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"
