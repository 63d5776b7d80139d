"""Threads stay awake between two operations, in every process that computes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ssmbench.execute import isolation
from ssmbench.kernels import threads


@pytest.mark.parametrize(("set_to", "expected"), [(None, "100000"), ("7", "7")])
def test_an_attempts_threads_stay_awake_unless_the_user_says_otherwise(
    monkeypatch, set_to, expected
):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if set_to:
        monkeypatch.setenv("GOMP_SPINCOUNT", set_to)
    found = isolation.variables(num_cpus=2, data=None, offline=True)
    assert found["GOMP_SPINCOUNT"] == expected
    assert threads.variables() == {"GOMP_SPINCOUNT": expected}


def test_the_command_line_says_so_before_torch_is_there():
    program = (
        "import os, sys; from ssmbench.cli import main; main(['version']); "
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "100000 False"
