"""What a quick command must not import: it is the difference between 0.2 and 10 seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from store_helpers import synthetic_run

HEAVY = (
    "torch", "ray", "polars", "transformers", "lm_eval", "pydantic", "ruamel", "numpy",
    "matplotlib",
)  # fmt: skip

GRIDS = sorted((Path(__file__).parents[1] / "grids").glob("*.yaml"))


def imported(code: str) -> set[str]:
    """Run code in a fresh Python and give the heavy modules that it has loaded."""
    script = f"""
import sys
{code}
sys.stderr.write("LOADED " + " ".join(m for m in {HEAVY!r} if m in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stderr.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["report", "--help"], ["version"], ["rnu"]]
)
def test_help_loads_nothing_heavy(arguments):
    code = f"""
from ssmbench.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
"""
    assert imported(code) == set()


@pytest.mark.parametrize("grid", GRIDS, ids=lambda path: path.stem)
def test_planning_loads_neither_torch_nor_ray_and_asks_no_network(grid, tmp_path):
    code = f"""
import socket
def refuse(*_):
    raise AssertionError("asked the network")
socket.socket.connect = refuse
from ssmbench.cli import main
assert main(["validate", {str(grid)!r}]) == 0
assert main(["plan", {str(grid)!r}, "--out", {str(tmp_path / "run")!r}]) == 0
"""
    assert imported(code) <= {"polars", "pydantic", "ruamel", "numpy"}


def test_the_driver_loads_no_torch():
    code = "import ssmbench.execute.run, ssmbench.execute.ray"
    assert imported(code) <= {"polars", "pydantic", "ruamel", "numpy"}


def test_a_report_loads_neither_torch_nor_ray_nor_what_draws(tmp_path):
    folder = synthetic_run(tmp_path / "run", n_docs=20)
    code = f"""
from ssmbench.report import _build, _markdown, _source
report = _build.build_report(_source.open_results([{str(folder.path)!r}]))
assert _markdown.page(report) and report.tables and report.figures
"""
    assert imported(code) <= {"polars", "pydantic", "ruamel", "numpy"}
