"""How long a start takes that finds everything done, and a query over it all.

    python benchmarks/resume.py [--cells N]

Makes a run folder of N finished cells with two suites each (six metrics, 120 samples and two
latency rows a cell), as workers and driver would. Then times what `ssmbench run` does before
it can say "nothing to do", and reading every table, from the attempts and compacted.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ssmbench.plan.cells import Cell, Entry, FineTune, Model, Resources, Step, Suite
from ssmbench.plan.decide import decide
from ssmbench.store import attempts
from ssmbench.store.compact import compact
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import Ledger
from ssmbench.store.read import tables
from ssmbench.store.sql import query

if TYPE_CHECKING:
    from collections.abc import Iterator

TASKS = [f"task_{i}" for i in range(6)]
SUITES = (
    Suite(name="zero_shot", kind="quality", version=1, params={"tasks": TASKS}),
    Suite(name="latency", kind="timing", version=1, params={}, device="cpu"),
)
SQL = (
    "select c.method, c.ratio, avg(m.value) as score, count(*) as n from cells c"
    " join metrics m using (cell_id) group by c.method, c.ratio order by c.ratio"
)


def cells(n: int) -> list[Cell]:
    """Make up n cells: random pruning at one ratio and another seed each."""
    return [
        Cell(
            model=Model(f"model-{i % 10}", f"hub:{i % 10}", f"revision-{i % 10}", family="mamba2"),
            steps=(Step("random", 1, (i % 9 + 1) / 10, {"targets": ["in_proj"]}),),
            calibration=None,
            fine_tune=FineTune(),
            seed=i,
            dtype="float32",
        )
        for i in range(n)
    ]


def rows(seed: int, n_documents: int) -> dict[str, list[dict]]:
    """Make up what two suites measure."""
    luck = random.Random(seed)
    metric = {"metric": "acc", "stderr": 0.01, "n": n_documents, "higher_is_better": True}
    sample = {"metric": "acc", "weight": 1.0}
    point = {"device": "cpu", "batch": 1, "length": 512, "median_s": 0.01, "raw_s": [0.01] * 20}
    return {
        "metrics": [{"task": t, "value": luck.random(), **metric} for t in TASKS],
        "samples": [
            {"task": t, "doc_id": str(d), "value": float(luck.random() < 0.5), **sample}
            for t in TASKS
            for d in range(n_documents)
        ],
        "latency": [{"phase": phase, **point} for phase in ("prefill", "decode")],
    }


def fill(folder: RunFolder, planned: list[Cell], *, n_documents: int = 20) -> None:
    """Write a finished run, without waiting for the disk: that is not what is measured."""
    wait, os.fsync = os.fsync, lambda _: None
    facts = dict.fromkeys(("params_model", "params_mixer", "state_bytes", "nonzero_mixer"), 10**8)
    with Ledger.open(folder) as ledger:
        for i, cell in enumerate(planned):
            ledger.cell(cell, SUITES)
            made = rows(i, n_documents)
            for suite, names in zip(SUITES, (("metrics", "samples"), ("latency",)), strict=True):
                mark = attempts.write_suite(
                    folder,
                    cell_id=cell.id,
                    attempt_id=f"{i:08d}{suite.kind}",
                    suite=suite,
                    result_rows={name: made[name] for name in names},
                    facts=facts,
                    seconds=10.0,
                )
                ledger.commit(mark)
            outcome = {"cell_id": cell.id, "attempt_id": f"{i:08d}quality", "status": "done"}
            attempts.write_outcome(folder, {**outcome, "number": 1, "started_s": float(i)})
    os.fsync = wait


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a block took."""
    start_s = time.perf_counter()
    yield
    print(f"  {what:<52} {time.perf_counter() - start_s:6.2f} s")


def main() -> None:
    """Time a resume and the queries."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=5_000)
    planned = cells(parser.parse_args().cells)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place) / "run", grid_text="", resolved={})
        with timed("made the folder"):
            fill(folder, planned)
        size = sum(p.stat().st_size for p in folder.ledger_dir.iterdir())
        print(f"{len(planned)} cells × {len(SUITES)} suites, ledger {size / 1e6:.1f} MB")
        entries = [Entry(c, SUITES, Resources(), 3600.0, 4096) for c in cells(len(planned))]
        with timed("resume: lock, ledger, adoption, decision, planning"):
            ledger = Ledger.open(RunFolder.open(folder.path))
            ledger.append({"event": "run"})
            ledger.adopt()
            for entry in entries:
                ledger.cell(entry.cell, entry.suites)
            decisions = decide(entries, ledger.history)
            ledger.close()
        assert not any(d.suites_to_do for d in decisions)
        for state in ("attempts' files", "compacted"):
            with timed(f"every table collected, {state}"):
                read = {name: frame.collect() for name, frame in tables(folder).items()}
            with timed(f"sql: cells joined with metrics, {state}"):
                query(folder, SQL)
            if state != "compacted":
                with timed("compaction"):
                    compact(folder)
        print(f"  {read['samples'].height} samples")


if __name__ == "__main__":
    main()
