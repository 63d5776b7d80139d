"""The scenario as a test: minutes long, so only where it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCENARIO = Path(__file__).with_name("scenario.py")
SKIPPED = 77


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("SSMBENCH_CLUSTER") != "1",
    reason="a cluster's whole life takes minutes: SSMBENCH_CLUSTER=1 asks for it",
)
def test_a_clusters_whole_life(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCENARIO), str(tmp_path / "lab")],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost 0, duplicated 0" in done.stdout


def test_what_a_machine_lacks_is_said():
    done = subprocess.run(
        [sys.executable, str(SCENARIO)],
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == SKIPPED, done.stderr
    assert "skipped: this machine lacks " in done.stdout


def test_the_launchers_files_are_as_ray_wants_them():
    yaml = pytest.importorskip("yaml")
    util = pytest.importorskip("ray.autoscaler._private.util")
    for path in (SCENARIO.with_name("cluster.yaml"), SCENARIO.parents[2] / "cluster.yaml"):
        config = util.prepare_config(yaml.safe_load(path.read_text("utf-8")))
        util.validate_config(config)
        starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
        for start in (command for command in starts if "ray start" in command):
            assert "RAY_AUTH_MODE=token" in start
            assert "RAY_grpc_client_keepalive_time_ms=10000" in start
            assert "RAY_grpc_client_keepalive_timeout_ms=10000" in start
        assert any(name.endswith(".ray/auth_token") for name in config["file_mounts"])
