"""How long the tables of a large run take, pairing every document with the dense model's.

    python benchmarks/report.py [--cells N] [--documents N]

Makes a run folder as benchmarks/resume.py does, with one dense cell per model, and times
`ssmbench report` on it, from the attempts' files and compacted.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import resume

from ssmbench.plan.cells import Step
from ssmbench.report import _render
from ssmbench.report._build import build_all
from ssmbench.store.compact import compact
from ssmbench.store.folder import RunFolder


def main() -> None:
    """Time building and rendering."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--documents", type=int, default=500)
    options = parser.parse_args()
    planned = resume.cells(options.cells)
    dense = (Step("dense", 1, 0.0, {}),)
    planned[:10] = [dataclasses.replace(c, steps=dense, seed=0) for c in planned[:10]]
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place) / "run", grid_text="", resolved={})
        resume.fill(folder, planned, n_documents=options.documents)
        n_samples = options.documents * len(resume.TASKS) * len(planned)
        print(f"{len(planned)} cells, {n_samples / 1e6:.1f} million samples")
        for state in ("attempts' files", "compacted"):
            with resume.timed(f"report built, {state}"):
                tables = build_all(folder)
            compact(folder)
        with resume.timed("Markdown and CSV written"):
            _render.write(tables, Path(place) / "report", title="Benchmark")


if __name__ == "__main__":
    main()
