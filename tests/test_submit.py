"""`ssmbench submit`: what travels with a grid, what is refused, and a real job server."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from execute_helpers import make_model

from ssmbench.cli import main
from ssmbench.errors import CommandError, GridError
from ssmbench.execute import parcel
from ssmbench.execute import submit as submitting
from ssmbench.execute.parcel import parts
from ssmbench.execute.submit import Submission, command

GRID = """
models: [{name: tiny, path: models/tiny}]
methods: [{method: random, ratio: 0.3}]
suites: [{suite: perplexity, data: tinyworld, length: 64}]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    (tmp_path / "g.yaml").write_text(GRID)
    return tmp_path


def touch(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_a_grid_names_beside_itself_travels_and_nothing_else(place):
    touch(place / "models" / "tiny" / "config.json")
    touch(place / "texts" / "own.txt")
    # Named like a method, a text, a suite, a model: no grid means these files.
    for name in ("random", "tinyworld", "perplexity", "tiny", "other"):
        touch(place / name / "private")
    grid = GRID + "calibration: {data: texts/own.txt}\n"
    (place / "g.yaml").write_text(grid)
    assert parts(place / "g.yaml") == [Path("models/tiny"), Path("texts/own.txt")]
    folder = place / "packed"
    folder.mkdir()
    parcel.pack(place / "g.yaml", parts(place / "g.yaml"), folder)
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {"g.yaml", "models/tiny/config.json", "texts/own.txt"}


def test_absolute_paths_hub_ids_and_the_zoo_stay_where_they_are(place):
    for text in (str(place), "state-spaces/mamba2-1.3b", "zoo:mamba2", "~/model"):
        (place / "g.yaml").write_text(GRID.replace("models/tiny", text))
        assert parts(place / "g.yaml") == []


def test_what_lies_outside_or_is_too_large_is_refused_with_a_sentence(place, monkeypatch):
    (place / "sub").mkdir()
    touch(place / "model" / "config.json")
    touch(place / "sub" / "g.yaml", GRID.replace("models/tiny", "../model"))
    with pytest.raises(GridError, match=r"'\.\./model' is not below the grid's own folder"):
        parts(place / "sub" / "g.yaml")
    touch(place / "models" / "tiny" / "model.safetensors", "x" * 2_000_000)
    monkeypatch.setattr(parcel, "_MAX_BYTES", 1_000_000)
    with pytest.raises(GridError, match="'models/tiny' has 2 MB; at most 1 MB"):
        parcel.pack(place / "g.yaml", parts(place / "g.yaml"), place / "packed")


def test_the_driver_is_told_what_the_user_said(place):
    asked = Submission(
        grid=place / "sub" / "g.yaml",
        out="s3://bucket/a b",
        only=("ratio>=0.5",),
        limit=3,
        data=Path("/data"),
        models={"tiny": "/m"},
        retry_failed=True,
        steal_lock=True,
    )
    words = shlex.split(command(asked))
    assert words[:5] == ["python", "-m", "ssmbench", "run", "g.yaml"]
    assert words[words.index("--out") + 1] == "s3://bucket/a b"
    # The shell fills it in; "auto" may find another cluster's processes.
    assert command(asked).endswith(' --address "$RAY_ADDRESS"')
    for pair in (("--only", "ratio>=0.5"), ("--limit", "3"), ("--model", "tiny=/m")):
        assert words[words.index(pair[0]) + 1] == pair[1]
    assert {"--retry-failed", "--steal-lock", "--plain"} <= set(words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--out: found none"),
        (["--out", "runs/g"], "--out runs/g: expected an absolute path"),
        (["--out", "/r", "--data", "data"], "--data data: expected an absolute path"),
        (["--out", "/r", "--model", "tiny=models/tiny"], "--model tiny=models/tiny: expected an"),
        (["--out", "/r", "--address", "10.0.0.1"], "--address 10.0.0.1: expected the dashboard"),
        (["--out", "/r", "--address", "http://"], "expected the dashboard"),
    ],
)
def test_what_means_nothing_on_a_cluster_is_exit_code_2(place, capsys, arguments, words):
    touch(place / "models" / "tiny" / "config.json")
    assert main(["submit", "g.yaml", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_a_dashboard_that_does_not_answer_is_exit_code_3(place, capsys):
    assert main(["submit", "g.yaml", "--out", "/r", "--address", "http://127.0.0.1:1"]) == 3
    err = capsys.readouterr().err
    assert "--address http://127.0.0.1:1: nobody answers" in err
    assert "ray dashboard cluster.yaml" in err


def test_a_server_that_is_no_job_server_is_exit_code_3(place):
    """In a process of its own: Ray's client is told by variables which server to take."""
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().split()[5]
        code, _, err = ssmbench(
            "submit", "g.yaml", "--out", "/r", address=f"http://127.0.0.1:{port}"
        )
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    assert code == 3, err
    assert "the job was not taken" in err
    assert "Traceback" not in err


def test_a_relative_path_is_refused_by_name():
    with pytest.raises(CommandError, match="--out x: expected an absolute path"):
        submitting.shared("--out", "x")


HEAD = """
import sys, ray
found = ray.init(
    address="local", num_cpus=2, include_dashboard=True, dashboard_host="127.0.0.1",
    dashboard_port=0, object_store_memory=80 * 2**20, log_to_driver=False, _temp_dir=sys.argv[1],
)
# As `ray start` does: where other clusters run as well, a job is told of this one.
ray._private.utils.write_ray_address(found.address_info["gcs_address"], sys.argv[1])
print(found.dashboard_url, flush=True)
sys.stdin.read()
"""


def ssmbench(*arguments: str, address: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "ssmbench", *arguments, "--address", address],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


def driver_said(err: str, address: str) -> str:
    """Give what the driver of a job printed, for a message."""
    job = next(word for word in err.split() if word.startswith("raysubmit_")).rstrip(";")
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "logs", job]
    command += ["--address", address]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


@pytest.fixture(scope="module")
def dashboard():
    """Start a Ray with its job server, on the loopback address, in a process of its own."""
    pytest.importorskip("aiohttp_cors", reason="needs Ray's job server: pip install 'ray[default]'")
    import tempfile

    commands = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        head = subprocess.Popen(
            [sys.executable, "-c", HEAD, folder],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert head.stdout is not None
        try:
            lines = iter(head.stdout.readline, "")
            yield "http://" + next(x for x in lines if x.startswith("127.0.0.1:")).strip()
        finally:
            head.communicate("", timeout=60)


@pytest.mark.ray
def test_a_grid_runs_on_a_cluster_that_knows_none_of_this_machines_files(place, dashboard):
    make_model(place / "models" / "tiny")
    run = place / "elsewhere" / "run"
    code, out, err = ssmbench(
        "submit", "g.yaml", "--out", str(run), "--limit", "2", address=dashboard
    )
    assert code == 0, err
    assert "sent along: models/tiny" in err
    if "run folder" in out:  # Not yet ended when it was asked.
        assert f"ssmbench status {run} --follow" in out
        assert "raysubmit_" in out
    following = [sys.executable, "-m", "ssmbench", "status", str(run), "--follow", "--plain"]
    done = subprocess.run(following, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + driver_said(err, dashboard)
    assert "2 done · 0 failed · 0 to do" in done.stdout


@pytest.mark.ray
def test_a_driver_that_ends_at_once_is_shown_with_its_exit_code(place, dashboard):
    (place / "g.yaml").write_text(GRID.replace("models/tiny", "/no/such/model"))
    code, out, err = ssmbench("submit", "g.yaml", "--out", str(place / "run"), address=dashboard)
    assert code == 2
    assert out == ""
    assert "there is no folder '/no/such/model'" in err


@pytest.mark.ray
def test_a_cluster_is_examined_by_its_own_head(place, dashboard):
    (place / "g.yaml").write_text(GRID.replace("models/tiny", "/no/such/model"))
    code, out, err = ssmbench("doctor", "--out", str(place / "run"), address=dashboard)
    assert code == 0, out + err
    for name in ("versions", "kernels", "run folder", "authentication", "submit"):
        assert any(line.startswith(name) for line in out.splitlines()), out
    assert not (place / "run").exists()
    code, out, err = ssmbench("doctor", "g.yaml", address=dashboard)
    assert code == 2
    assert "there is no folder '/no/such/model'" in out + err
