"""`make gpu-check`, tried on a processor at toy sizes, without what a bare GPU machine lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"
# What the machine that lends its GPU does not have.
BARE = """
import runpy, sys

class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "polars", "lm_eval", "datasets", "cyclopts"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Bare())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
STEPS = (
    "kernels", "models", "decoding", "structured", "two_four", "simba", "scoring", "training",
)  # fmt: skip


def check(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", BARE, str(SCRIPT), *options]
    # The tests' interpreter of Triton's kernels would stand for a GPU's.
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=env
    )


def test_every_step_runs_on_a_bare_machine(tmp_path):
    done = check("--out", str(tmp_path), "--device", "cpu", "--small")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in STEPS}
    assert {name: result["status"] for name, result in found.items()} == dict.fromkeys(STEPS, "ok")
    assert all(result["small"] and result["torch"] for result in found.values())
    rows = found["models"]["rows"]
    ran = {(r["family"], r["dtype"]) for r in rows if r["error"] is not None}
    assert len(ran) == 14
    # What could not run says why.
    assert all(r["problem"] for r in rows if r["error"] is None)
    assert all(r["gradients_error"] < 1e-4 for r in rows if r["error"] and r["dtype"] == "float32")
    assert {r["graph"] for r in found["decoding"]["rows"]} == {"it runs on a processor"}
    assert found["scoring"]["rows"][0]["max_difference_nats"] < 1e-2
    assert found["two_four"]["told"].startswith("2:4 products need a GPU")


def test_a_step_without_time_or_with_a_fault_is_told(tmp_path):
    done = check("--out", str(tmp_path), "--device", "cpu", "--minutes", "0.1", "--only", "simba")
    assert done.returncode == 1
    result = json.loads((tmp_path / "simba.json").read_text())
    assert result["status"] == "not run"
    assert result["told"].startswith("no time: it takes about")


def test_a_machine_without_a_gpu_and_a_wrong_step(tmp_path):
    import torch

    if not torch.cuda.is_available():
        done = check("--out", str(tmp_path))
        assert done.returncode == 3
        assert "no GPU here" in done.stdout
    done = check("--out", str(tmp_path), "--device", "cpu", "--only", "simbaa")
    assert done.returncode == 2
    assert "Known: kernels, models" in done.stdout
