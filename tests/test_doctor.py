"""`ssmbench doctor`: each thing that can be wrong with a machine, planted and found."""

from __future__ import annotations

import math
import os
import sys
import time

import pytest
import torch

from ssmbench.execute import diagnosis, environment, probe
from ssmbench.execute.diagnosis import Machine
from ssmbench.kernels import backends, check, dispatch

HERE = {"ssmbench": "1.0", "python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0+cpu"}


def machine(name: str = "a", *, n_gpus: int = 0, **facts) -> Machine:
    known = {"versions": HERE, "gpus": [], "variables": {}, "command": "1.0 /venv"}
    return Machine(name, n_gpus, {**known, **facts})


def verdicts(checks) -> list[tuple[str, str]]:
    return [(c.where, c.verdict) for c in checks]


def test_equal_versions_are_one_line_and_builds_may_differ():
    built = machine("b", versions={**HERE, "torch": "2.13.0+cu130"})
    [found] = diagnosis.check_versions(HERE, [machine(), built, machine("c")])
    assert (found.verdict, found.where) == ("ok", "3 machines")
    assert "torch 2.13.0+cpu" in found.found


@pytest.mark.parametrize("name", ["ssmbench", "python", "ray", "torch"])
def test_another_version_is_named_with_both(name):
    other = machine("b", versions={**HERE, name: "9.9"})
    bad, good = diagnosis.check_versions(HERE, [machine(), other])
    assert (bad.where, bad.verdict, bad.found) == ("b", "bad", f"{name} 9.9 (here {HERE[name]})")
    assert "pip install" in bad.advice
    assert (good.where, good.verdict) == ("a", "ok")


def test_a_machine_without_a_library_or_ssmbench_is_bad():
    without = machine("b", versions={k: v for k, v in HERE.items() if k != "torch"})
    nothing = machine("c", versions=None)
    bad, worse = diagnosis.check_versions(HERE, [without, nothing])
    assert bad.found == "torch missing (here 2.13.0+cpu)"
    assert worse.found == "ssmbench is not installed"


def test_gpus_that_ray_was_told_of_and_are_not_there():
    there = machine("b", n_gpus=2, gpus=["H100, 80 GB", "H100, 80 GB"])
    short = machine("c", n_gpus=2, gpus=["H100, 80 GB"])
    found = diagnosis.check_gpus([machine(), there, short])
    assert verdicts(found) == [("b", "ok"), ("c", "bad")]
    assert found[1].found == "Ray hands out 2, nvidia-smi shows 1"
    assert verdicts(diagnosis.check_gpus([machine()])) == [("a", "skipped")]


def test_kernels_that_are_off_or_not_a_number_or_cannot_run():
    good = {"name": "CPU", "errors": {"ssd": 1e-7, "causal_conv": 0.0}, "limit": 1e-3}
    off = {**good, "errors": {"ssd": 1e-7, "causal_conv": 0.5}}
    nan = {**good, "errors": {"ssd": math.nan}}
    answers = [good, off, nan, {"problem": "no kernel image"}, None]
    found = diagnosis.check_kernels("a", answers)
    assert [c.verdict for c in found] == ["ok", "bad", "bad", "bad", "skipped"]
    assert found[1].found == "CPU: causal_conv off by 5.0e-01"
    assert "no kernel image" in found[3].found


def test_the_kernels_here_are_right_and_a_wrong_one_is_seen(monkeypatch):
    assert set(check.errors("cpu")) == set(backends.OPERATIONS)
    assert all(e < check.LARGEST_ERROR for e in check.errors("cpu").values())
    right = dispatch.selective_scan

    def wrong(*args, **options):
        y, state = right(*args, **options)
        return y, state * 1.01

    monkeypatch.setattr(dispatch, "selective_scan", wrong)
    errors = check.errors("cpu")
    assert errors["selective_scan"] > check.LARGEST_ERROR
    assert errors["ssd"] < check.LARGEST_ERROR
    answer = probe.Probe().kernels("cpu")
    assert [c.verdict for c in diagnosis.check_kernels("a", [answer])] == ["bad"]


def test_backends_are_listed_with_what_they_lack_and_why():
    answer = {
        "name": "H200",
        "errors": {"ssd": 1e-7},
        "limit": 1e-3,
        "computed": "ssd: mamba_ssm, causal_conv: triton",
        "backends": {
            "mamba_ssm": {
                "ssd": None,
                "selective_scan": "No module named 'selective_scan_cuda'",
                "causal_conv": "No module named 'causal_conv1d'",
            },
            "triton": {"ssd": None, "selective_scan": None},
            "torch": {"ssd": None},
        },
    }
    kernels, *found = diagnosis.check_kernels("a", [answer])
    assert (kernels.name, kernels.verdict) == ("kernels", "ok")
    assert [(c.name, c.verdict, c.found) for c in found] == [
        ("backend", "ok", "H200, auto: ssd: mamba_ssm, causal_conv: triton"),
        (
            "backend",
            "skipped",
            "mamba_ssm: selective_scan: No module named 'selective_scan_cuda';"
            " causal_conv: No module named 'causal_conv1d'",
        ),
        ("backend", "ok", "triton: computes all it offers"),
        ("backend", "ok", "torch: computes all it offers"),
    ]


def test_a_device_that_is_not_there_is_a_problem_not_a_crash():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "problem" in probe.Probe().kernels("cuda")


def test_a_folder_is_written_and_read_back(tmp_path):
    asked = probe.Probe()
    run = str(tmp_path / "new" / "run")
    assert asked.write(run, "x", b"data") is None
    assert asked.read(run, "x", b"data") is None
    assert "other bytes" in asked.read(run, "x", b"else")
    assert "FileNotFoundError" in asked.read(run, "y", b"data")
    (tmp_path / "file").touch()
    assert "Error" in asked.write(str(tmp_path / "file" / "run"), "x", b"data")


def test_a_folder_that_one_machine_cannot_write_or_see():
    good = diagnosis.check_folder("/r", {"a": None, "b": None}, {("a", "b"): None})
    assert [c.verdict for c in good] == ["ok"]
    [bad] = diagnosis.check_folder("/r", {"a": None, "b": "OSError: full"}, {("a", "a"): None})
    assert (bad.where, bad.found) == ("b", "/r: OSError: full")
    [unseen] = diagnosis.check_folder("/r", {"a": None, "b": None}, {("a", "b"): "not there"})
    assert (unseen.where, unseen.verdict) == ("b", "bad")
    assert "what a wrote is not seen: not there" in unseen.found


def test_models_and_data_that_are_missing_somewhere(tmp_path):
    found = probe.Probe().missing(
        [f"folder:{tmp_path}", "zoo:mamba2", "folder:/no/such"], "/no/data"
    )
    assert set(found) == {"folder:/no/such", "/no/data"}
    [bad, worse] = diagnosis.check_inputs({"a": {}, "b": found}, 4)
    assert (bad.where, bad.verdict, worse.verdict) == ("b", "bad", "bad")
    assert diagnosis.check_inputs({"a": {}}, 4)[0].found == "4 sources at hand"


def test_a_hub_model_needs_the_cache_or_the_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = probe.Probe().missing(["hub:no/such-model"], None)
    assert "not in the cache" in found["hub:no/such-model"]


def test_clocks_that_differ_by_more_than_can_be_measurement():
    found = diagnosis.check_clocks({"a": (0.01, 0.001), "b": (-7.0, 0.1), "c": (3.0, 2.0)})
    assert verdicts(found) == [("b", "bad")]
    assert found[0].found.startswith("-7.0 s")
    assert verdicts(diagnosis.check_clocks({"a": (1.9, 0.0)})) == [("1 machine", "ok")]


@pytest.mark.parametrize(
    ("time_ms", "timeout_ms", "verdict"),
    [
        ("10000", "10000", "ok"),
        ("300000", "120000", "bad"),  # Ray's own
        ("10000", "120000", "bad"),
        ("soon", "10000", "bad"),
        (None, "10000", "bad"),
    ],
)
def test_keepalives_that_would_notice_a_lost_machine_too_late(time_ms, timeout_ms, verdict):
    given = {
        "RAY_grpc_client_keepalive_time_ms": time_ms,
        "RAY_grpc_client_keepalive_timeout_ms": timeout_ms,
    }
    variables = {name: value for name, value in given.items() if value is not None}
    assert diagnosis.check_keepalive(variables).verdict == verdict


def test_authentication_is_one_mode_on_all_machines():
    token = machine("b", variables={"RAY_AUTH_MODE": "token"})
    assert verdicts(diagnosis.check_auth("token", [token])) == [("b", "ok")]
    [bad] = diagnosis.check_auth("disabled", [machine(), token])
    assert (bad.where, bad.verdict) == ("b", "bad")
    [none] = diagnosis.check_auth("disabled", [machine()])
    assert "may run code" in none.found


LOCAL = {
    "provider": {"type": "local"},
    "available_node_types": {"local.cluster.node": {"min_workers": 2}},
}


def test_workers_that_never_come_and_why():
    ok = diagnosis.check_launcher(LOCAL, None, 3)
    assert (ok.verdict, ok.found) == ("ok", "provider local: 2 of at least 2 workers are there")
    trap = diagnosis.check_launcher(LOCAL, "1", 1)
    assert trap.verdict == "bad"
    assert "RAY_UP_enable_autoscaler_v2=0" in trap.advice
    slow = diagnosis.check_launcher(LOCAL, None, 1)
    assert (slow.verdict, "ray monitor" in slow.advice) == ("bad", True)
    assert diagnosis.check_launcher(None, None, 1).verdict == "skipped"


def test_python_in_a_job_must_be_one_with_ssmbench():
    assert diagnosis.check_job_python(HERE, machine()).verdict == "ok"
    for command in (None, "0.9 /usr"):
        assert diagnosis.check_job_python(HERE, machine(command=command)).verdict == "bad"


def test_equal_lines_of_several_machines_are_one():
    checks = diagnosis.check_versions(HERE, [machine(x, versions=None) for x in "abc"])
    [line] = diagnosis.rows(checks)
    assert line[1] == "3 × a, …"


def test_a_probe_tells_the_truth_about_this_machine(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))  # noqa: PTH120
    facts = probe.Probe().facts()
    assert facts["versions"] == environment.versions()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["command"].split()[0] == environment.versions()["ssmbench"]
    assert facts["variables"]["RAY_AUTH_MODE"] == "token"
    assert abs(probe.Probe().clock() - time.time()) < 1
    monkeypatch.setenv("PATH", "/nowhere")
    assert probe.Probe().facts()["command"] is None


@pytest.mark.ray
def test_this_machine_is_well_and_a_folder_that_is_none_is_found(tmp_path):
    """In a process of its own, since it starts a Ray of its own."""
    import subprocess

    def doctor(out: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "ssmbench", "doctor", "--out", out],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        return done.returncode, done.stdout + done.stderr

    code, text = doctor(str(tmp_path / "run"))
    assert code == 0, text
    names = ("versions", "GPUs", "kernels", "run folder", "models and data", "clock", "keepalive")
    lines = text.splitlines()
    for name in names:
        assert any(line.startswith(name) for line in lines), name
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    code, text = doctor(str(tmp_path / "file"))
    assert code == 3
    assert "1 check bad" in text
    assert "Traceback" not in text
