"""The run folder: where everything lies. Paths are joined here and nowhere else.

RUN/
  run.json                                   what this folder is, the first grid
  ledger/NNNNNN-UUID.jsonl                   the driver's, one segment a start
  attempts/CC/CELL.ATTEMPT.SUITE.TABLE.parquet   a worker's, never overwritten
  attempts/CC/CELL.ATTEMPT.SUITE.json        written after those: the suite is whole
  attempts/CC/CELL.ATTEMPT.json              how the attempt ended
  artifacts/KEY/                             shared between cells
  logs/CELL/ATTEMPT.log
  compact/KEY/TABLE.parquet                  derived from the ledger's state KEY, and key.json
  LOCK/NNNNNN.json                           who drives, and who did
  requests/stop-UUID.json                    what other terminals ask of the driver
  progress.json                              what runs at this moment, for other terminals
  report/                                    what `ssmbench report` writes; may be deleted
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.errors import StoreError, UnreachableError
from ssmbench.store import atomic
from ssmbench.store.address import Address, place, relative
from ssmbench.store.columns import SCHEMA_VERSION
from ssmbench.store.objects import endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssmbench.store.address import Place

FORMAT = "ssmbench run"
_MEND = (
    "Restore it from a copy; or, where the rest is whole, write a new one: start the run in a new"
    " folder, stop it, and copy its run.json."
)
_FILES = {"run.json", "progress.json"}
_OURS = _FILES | {
    *("ledger", "attempts", "artifacts", "logs", "compact", "LOCK", "requests", "report"),
}


class AttemptFile(NamedTuple):
    """A name under attempts/, taken apart; `suite_id` is None for an attempt's outcome.

    Text, since a resume lists tens of thousands and opens few.
    """

    location: str
    cell_id: str
    attempt_id: str
    suite_id: str | None

    @property
    def path(self) -> Place:
        """The file."""
        return place(self.location)


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run folder. `open` or `create` it; the constructor checks nothing."""

    path: Place

    @classmethod
    def at(cls, location: str) -> RunFolder:
        """Take a location as `location` gives it; nothing is checked."""
        return cls(place(location))

    @property
    def location(self) -> str:
        """The folder as text that means the same on every machine that sees it."""
        return str(self.path.absolute())

    @classmethod
    def create(cls, path: Place | str, *, grid_text: str, resolved: Any) -> RunFolder:
        """Make `path` a run folder, or open it if it is one already.

        Args:
            path: a folder, local or in an object store, that does not exist, is empty, or is a
                run folder.
            grid_text: the grid file verbatim, kept for people.
            resolved: the grid with every default filled in, as JSON.

        Raises:
            StoreError: `path` holds other things, was written by a newer ssmbench, or cannot
                be written.
        """
        folder = cls(place(path))
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
        except StoreError:
            raise
        except OSError as problem:
            raise StoreError(
                f"{path}: cannot be written ({problem.strerror}). Choose another folder."
            ) from problem
        return cls.open(path)

    @classmethod
    def open(cls, path: Place | str) -> RunFolder:
        """Open an existing run folder.

        Raises:
            StoreError: it is missing, is not a run folder, is damaged, or is of a newer schema.
        """
        folder = cls(place(path))
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
        try:
            facts = json.loads(self.run_file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"{self.path}: {self._lack()}") from None
        except ValueError as problem:
            raise StoreError(f"{self.run_file}: is not JSON ({problem}). {_MEND}") from None
        except UnreachableError:
            raise
        except OSError as problem:
            raise StoreError(f"{self.run_file}: cannot be read ({problem.strerror}).") from None
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise StoreError(
                f"{self.path}: this run.json is not ours (its format is not '{FORMAT}')."
            )
        return facts

    @property
    def run_file(self) -> Place:
        """What the folder is; its presence makes it a run folder."""
        return self.path / "run.json"

    @property
    def ledger_dir(self) -> Place:
        """The driver's segments."""
        return self.path / "ledger"

    @property
    def lock_dir(self) -> Place:
        """One small file per holder; the highest number holds the lock."""
        return self.path / "LOCK"

    @property
    def attempts_dir(self) -> Place:
        """The workers' files, in one folder for each first two digits of the cell id."""
        return self.path / "attempts"

    @property
    def artifacts_dir(self) -> Place:
        """What cells share, by content key."""
        return self.path / "artifacts"

    @property
    def compact_dir(self) -> Place:
        """Derived tables, one folder for each state of the ledger; may be deleted."""
        return self.path / "compact"

    @property
    def requests_dir(self) -> Place:
        """What other terminals ask of the driver."""
        return self.path / "requests"

    @property
    def progress_file(self) -> Place:
        """What runs at this moment, replaced every few seconds; may be deleted."""
        return self.path / "progress.json"

    @property
    def report_dir(self) -> Place:
        """Pages for people, derived from the rest; may be deleted."""
        return self.path / "report"

    def table_file(self, cell_id: str, attempt_id: str, suite_id: str, table: str) -> Place:
        """Where an attempt writes one table of one suite."""
        return self._attempt(cell_id, f"{attempt_id}.{suite_id}.{table}.parquet")

    def mark_file(self, cell_id: str, attempt_id: str, suite_id: str) -> Place:
        """The file whose presence says that the suite's tables are whole."""
        return self._attempt(cell_id, f"{attempt_id}.{suite_id}.json")

    def outcome_file(self, cell_id: str, attempt_id: str) -> Place:
        """How the attempt ended."""
        return self._attempt(cell_id, f"{attempt_id}.json")

    def log_file(self, cell_id: str, attempt_id: str) -> Place:
        """Where the attempt's output goes."""
        return self.path / "logs" / cell_id / f"{attempt_id}.log"

    def relative(self, path: Place) -> str:
        """Give a path below the run folder as it is stored: relative, with `/`."""
        return relative(path, self.path)

    def attempt_files(self) -> Iterator[AttemptFile]:
        """List the JSON files under attempts/ (marks and outcomes), in no order."""
        for name, location in self._scan():
            parts = name.split(".")
            if parts[-1] == "json" and len(parts) in {3, 4}:
                suite_id = parts[2] if len(parts) == 4 else None
                yield AttemptFile(location, parts[0], parts[1], suite_id)

    def _scan(self) -> Iterator[tuple[str, str]]:
        """List names and locations of all files under attempts/ but temporary ones."""
        attempts = self.attempts_dir
        if isinstance(attempts, Address):
            for entry in attempts.below():
                name = entry.key.rpartition("/")[2]
                yield name, str(attempts / entry.key[len(attempts.key) + 1 :])
            return
        if not attempts.is_dir():
            return
        with os.scandir(attempts) as shelves:
            names = [shelf.path for shelf in shelves if shelf.is_dir()]
        for shelf_path in names:
            with os.scandir(shelf_path) as entries:
                for file in entries:
                    if not file.name.startswith(atomic.TEMPORARY):
                        yield file.name, file.path

    def _attempt(self, cell_id: str, rest: str) -> Place:
        return self.attempts_dir / cell_id[:2] / f"{cell_id}.{rest}"

    def _lack(self) -> str:
        """Say what a folder without run.json lacks."""
        if isinstance(self.path, Address) and not self.path.store.has_bucket():
            return f"there is no such bucket. Check the address and {endpoint()}."
        if not self.path.is_dir():
            return "there is no such run folder."
        return "this is not a run folder (it has no run.json)."

    def _refuse_foreign(self) -> None:
        """Refuse to settle in a folder that holds something else."""
        if not self.path.is_dir():
            if not isinstance(self.path, Address) and self.path.exists():
                raise StoreError(f"{self.path}: is a file; a run needs a folder.")
            return
        names = sorted(p.name for p in self.path.iterdir() if p != self.path)
        foreign = [n for n in names if n not in _OURS and not n.startswith(atomic.TEMPORARY)]
        if foreign:
            seen = ", ".join(f"'{n}'" for n in foreign[:3]) + (", …" if len(foreign) > 3 else "")
            raise StoreError(
                f"{self.path}: holds {seen} and no run.json, so it is not a run folder."
                " Choose an empty or new folder."
            )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode() + b"\n"
