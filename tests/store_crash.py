"""Run one scenario in children that die at their n-th file operation (for test_store_crash).

    python store_crash.py SCENARIO FOLDER

Makes FOLDER/0000, FOLDER/0001, …: in the n-th, the child was killed before operation n. The
last one is that of a child that got through. Forked before polars starts its threads.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from store_helpers import acc_rows, facts_of, latency_rows, make_cell, make_suite, new_run

from ssmbench.store import attempts, compact, sql
from ssmbench.store.artifacts import Artifacts
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from ssmbench.store.folder import RunFolder

OPERATIONS = ("open", "write", "fsync", "link", "rename", "replace", "unlink", "mkdir", "rmdir")
CELLS, SUITES = [make_cell()], [make_suite(), make_suite("latency")]


def measure(folder: RunFolder, attempt: str) -> None:
    """What a worker does."""
    for cell in CELLS:
        for suite in SUITES:
            rows = acc_rows({"t": [1, 0, 1]})
            rows = rows if suite.name == "zero_shot" else latency_rows(0.01, 0.02)
            attempts.write_suite(
                folder,
                cell_id=cell.id,
                attempt_id=f"{attempt}{cell.seed}",
                suite=suite,
                result_rows=rows,
                facts=facts_of(cell),
            )
        outcome = {"cell_id": cell.id, "attempt_id": f"{attempt}{cell.seed}", "status": "done"}
        attempts.write_outcome(folder, outcome)


def drive(folder: RunFolder, attempt: str) -> None:
    """What a driver does: plan, adopt, measure what is left, commit."""
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run"})
        for cell in CELLS:
            ledger.cell(cell, SUITES)
        ledger.adopt()
        left = [
            (c, s) for c in CELLS for s in SUITES if (c.id, s.id) not in ledger.history.committed
        ]
        if left:
            measure(folder, attempt)
            ledger.adopt()


def prepare(path: Path, scenario: str) -> None:
    """What is there before the part that is interrupted."""
    if scenario in {"worker", "compact", "artifact"}:
        folder = new_run(path)
        if scenario == "compact":
            drive(folder, "z")


def interrupted(path: Path, scenario: str) -> None:
    folder = new_run(path)
    if scenario == "worker":
        measure(folder, "a")
    elif scenario == "driver":
        drive(folder, "a")
    elif scenario == "compact":
        compact.compact(folder)
        sql.query(folder, "select count(*) from metrics")
    elif scenario == "artifact":
        Artifacts(folder).publish({"k": 1}, fill)


def fill(path: Path) -> None:
    (path / "sub").mkdir()
    (path / "sub" / "weights").write_bytes(b"w" * 1000)
    (path / "scores").write_bytes(b"s" * 1000)


def die_at(limit: int) -> None:
    """Make this process vanish at its file operation number `limit`, half-way in a write."""
    count = [0]

    def doomed(name: str, real):
        def call(*args, **options):
            count[0] += 1
            if count[0] > limit:
                if name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os._exit(9)
            return real(*args, **options)

        return call

    os.fsync = lambda descriptor: None  # A killed process loses nothing that it has written.
    for name in OPERATIONS:
        setattr(os, name, doomed(name, getattr(os, name)))


def child(work, *args) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(*args)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(scenario: str, parent: Path) -> None:
    for n in range(1000):
        path = parent / f"{n:04d}"
        if child(prepare, path, scenario) != 0:
            sys.exit(1)

        def doomed(path: Path = path, n: int = n) -> None:
            die_at(n)
            interrupted(path, scenario)

        code = child(doomed)
        if code == 0:
            return
        if code != 9:
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
