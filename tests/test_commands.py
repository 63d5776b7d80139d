"""Commands on a run that another process drives: status, logs, cancel."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from execute_helpers import make_model
from store_helpers import make_cell, new_run

from ssmbench.cli import main
from ssmbench.execute import cancel as cancelling
from ssmbench.execute import watch
from ssmbench.execute.driver import LOOK_EVERY_S
from ssmbench.execute.job import Job
from ssmbench.execute.progress import PlainDisplay, Running, State
from ssmbench.execute.publish import Published, read_progress
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import Ledger
from ssmbench.store.requests import StopRequests, ask_to_stop

GRID = """
models: [{{name: tiny, path: {model}}}]
methods: [{{method: random, ratio: [0.3, 0.5]}}]
suites: [{{suite: perplexity, data: tinyworld, length: 64}}]
"""

# A driver whose `random` cells wait until a file is there.
DRIVER = """
import logging, sys, time
from pathlib import Path
from ssmbench.cli import main
from ssmbench.methods import random

kept = random.compress

def compress(model, **options):
    logging.warning("at the gate")
    while not Path("gate").exists():
        time.sleep(0.05)
    logging.warning("through the gate")
    return kept(model, **options)

random.compress = compress
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def place(tmp_path: Path, monkeypatch, model_folder) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.yaml").write_text(GRID.format(model=model_folder))
    return tmp_path


@pytest.fixture
def driven(place: Path):
    """Start a driver in another process; it stands at the gate of its second cell."""
    (place / "driver.py").write_text(DRIVER)
    words = ["run", "g.yaml", "--inline", "--limit", "2", "--plain"]
    log = (place / "driver.log").open("w")
    process = subprocess.Popen([sys.executable, "driver.py", *words], stdout=log, stderr=log)
    try:
        until(lambda: "at the gate" in all_logs(), 120)
        yield process
    finally:
        process.kill()
        process.wait(30)
        log.close()


@pytest.fixture
def ssmbench(capsys):
    def run(*arguments: str):
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def all_logs() -> str:
    return "".join(path.read_text() for path in Path("runs/g/logs").glob("*/*.log"))


def until(there, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, Path("driver.log").read_text()
        time.sleep(0.05)


def waiting_cell() -> str:
    [log] = [p for p in Path("runs/g/logs").glob("*/*.log") if "at the gate" in p.read_text()]
    return log.parent.name


def test_status_names_the_driver_and_what_runs(ssmbench, driven):
    folder = RunFolder.open(Path("runs/g"))
    until(lambda: (found := read_progress(folder)) is not None and found.running, 30)
    code, out, _ = ssmbench("status", "runs/g")
    assert code == 0
    assert out.startswith("3 cells · ")
    assert f"driven by process {driven.pid} on " in out
    assert " attempt running · " in out
    assert "  tiny · " in out


def test_status_follows_until_the_driver_ends(ssmbench, driven, place):
    command = [sys.executable, "-m", "ssmbench", "status", "runs/g", "--follow", "--plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        first = following.stdout.readline()
        assert first.startswith("3 cells · ")
        assert "3 done" not in first
        (place / "gate").touch()
        rest = following.stdout.read()
    assert following.returncode == 0
    assert driven.wait(60) == 0
    assert rest.splitlines()[-1].startswith("no driver is at work any more: 3 cells · 3 done · ")


def test_following_a_run_with_nothing_to_follow_tells_by_its_exit_code(ssmbench, place):
    assert ssmbench("run", "g.yaml", "--inline", "--limit", "2", "--only", "ratio=0.3")[0] == 0
    assert ssmbench("status", "runs/g", "--follow")[0] == 0
    with Ledger.open(RunFolder.open(Path("runs/g"))) as ledger:
        ledger.cell(make_cell(), [])
    cell = make_cell(ratio=0.7)
    with Ledger.open(RunFolder.open(Path("runs/g"))) as ledger:
        suite = next(iter(ledger.history.suites))
        from ssmbench.plan.cells import Suite

        ledger.cell(cell, [Suite.from_json(ledger.history.suites[suite])])
    assert ssmbench("status", "runs/g", "--follow")[0] == 1


def test_logs_shows_the_running_attempt_and_follows_it(ssmbench, driven, place):
    cell = waiting_cell()
    code, out, err = ssmbench("logs", "runs/g", cell[:6])
    assert code == 0
    assert out.rstrip().endswith("at the gate")
    assert "attempt 1 of 1" in err

    command = [sys.executable, "-m", "ssmbench", "logs", "runs/g", cell, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        read = ""
        while "at the gate" not in read:
            line = following.stdout.readline()
            assert line
            read += line
        (place / "gate").touch()
        read += following.stdout.read()
    assert following.returncode == 0
    assert "through the gate" in read
    path = next((place / "runs" / "g" / "logs" / cell).glob("*.log"))
    assert read == path.read_text()


def test_logs_shows_any_attempt_in_the_order_in_which_they_began(ssmbench, place, monkeypatch):
    from ssmbench.errors import MethodError
    from ssmbench.methods import random

    def fail(model, **options):
        raise MethodError("not today")

    arguments = ("run", "g.yaml", "--inline", "--limit", "2", "--only", "ratio=0.3")
    with monkeypatch.context() as patch:
        patch.setattr(random, "compress", fail)
        assert ssmbench(*arguments)[0] == 1
    assert ssmbench(*arguments, "--retry-failed")[0] == 0
    cell = next(Path("runs/g/logs").iterdir()).name
    code, out, err = ssmbench("logs", "runs/g", cell)
    assert code == 0
    assert "not today" not in out
    assert "attempt 2 of 2 · done" in err
    code, out, err = ssmbench("logs", "runs/g", cell, "--attempt", "1")
    assert "not today" in out
    assert "attempt 1 of 2 · user: not today" in err
    for wrong in ("0", "3"):
        code, out, err = ssmbench("logs", "runs/g", cell, "--attempt", wrong)
        assert (code, out) == (2, "")
        assert f"--attempt {wrong}: found 2 attempts" in err


def test_logs_of_no_cell_or_several_is_one_line(ssmbench, tmp_path):
    folder = new_run(tmp_path / "run")
    with Ledger.open(folder) as ledger:
        cells = [make_cell(ratio=i / 100) for i in range(40)]
        for cell in cells:
            ledger.cell(cell, [])
    run = str(tmp_path / "run")
    assert "begins the ids of 40 cells" in ssmbench("logs", run, "")[2]
    code, _, err = ssmbench("logs", run, "zzz")
    assert code == 2
    assert "no cell of this run is called 'zzz'" in err
    assert "Traceback" not in err
    code, _, err = ssmbench("logs", run, cells[0].id)
    assert (code, err) == (2, f"cell {cells[0].id}: no attempt has begun yet.\n")


def open_gate_after_request(place: Path) -> None:
    until(lambda: any((place / "runs" / "g" / "requests").glob("stop-*")), 60)
    time.sleep(LOOK_EVERY_S + 0.5)
    (place / "gate").touch()


def test_cancel_lets_what_runs_finish_and_starts_nothing_new(ssmbench, driven, place):
    folder = RunFolder.open(Path("runs/g"))
    opener = threading.Thread(target=open_gate_after_request, args=(place,))
    opener.start()
    code, out, err = ssmbench("cancel", "runs/g")
    opener.join()
    assert code == 0
    assert f"asked process {driven.pid} on " in err
    assert out.startswith("stop")
    assert driven.wait(60) == 130
    found = watch.status(folder)
    assert found.driver is None
    assert found.n_to_do == 1
    assert found.n_failed == 0
    # The request was for that driver: the next one goes on.
    code, _, err = ssmbench("run", "g.yaml", "--inline", "--limit", "2")
    assert (code, "3 done" in err) == (0, True)


def test_nothing_is_cancelled_where_nobody_drives(ssmbench, place):
    folder = new_run(place / "run")
    code, out, err = ssmbench("cancel", "run")
    assert (code, out) == (2, "")
    assert "nobody drives it" in err
    assert not folder.requests_dir.exists()


def test_an_answer_that_does_not_come_is_said(place, capsys):
    folder = new_run(place / "run")
    with Ledger.open(folder):
        assert cancelling.cancel(folder, at_once=True, wait_s=0.1) == 0
    assert "has not answered yet" in capsys.readouterr().out


def test_requests_count_from_the_drivers_start_and_only_upwards(tmp_path):
    folder = new_run(tmp_path / "run")
    ask_to_stop(folder, 2)
    requests = StopRequests(folder)
    assert requests.level() == 0
    ask_to_stop(folder, 1)
    assert [requests.level(), requests.level()] == [1, 1]
    ask_to_stop(folder, 2)
    assert requests.level() == 2
    ask_to_stop(folder, 1)
    assert requests.level() == 2
    assert StopRequests(folder).level() == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"level": 9}', '{"level": "2"}', "\xff"])
def test_a_damaged_request_is_ignored_and_the_next_is_read(tmp_path, text):
    folder = new_run(tmp_path / "run")
    requests = StopRequests(folder)
    folder.requests_dir.mkdir()
    (folder.requests_dir / "stop-1.json").write_text(text, encoding="latin-1")
    assert requests.level() == 0
    ask_to_stop(folder, 1)
    assert requests.level() == 1


def state(tmp_path: Path, **changes) -> State:
    cell = make_cell()
    job = Job(
        folder=str(tmp_path), cell=cell, suites=(), attempt_id="a", number=2, log="", data=None,
        device="cpu", batch_tokens=1, num_cpus=1, offline=True, capture=False,
    )  # fmt: skip
    running = (Running(job, None, 3.0, None),)
    return State(now_s=10.0, n_cells=4, n_cells_done=1, running=running, **changes)


def test_a_published_state_is_read_as_it_was(tmp_path):
    folder = new_run(tmp_path / "run")
    display = Published(PlainDisplay(folder="run"), folder, every_s=3600)
    assert read_progress(folder) is None
    display.show(state(tmp_path))
    found = read_progress(folder)
    assert found is not None
    assert (found.n_cells, found.n_cells_done, found.stopping) == (4, 1, False)
    [attempt] = found.running
    assert (attempt.cell_id, attempt.number, attempt.seconds) == (make_cell().id, 2, 7.0)
    # Not again within the hour, but for a stop.
    display.show(state(tmp_path, n_failed=1))
    assert read_progress(folder) == found
    display.show(state(tmp_path, stopping=True))
    assert read_progress(folder).stopping
    lines = list(watch.running_lines(read_progress(folder), now_s=time.time() + 3600))
    assert lines[0].startswith(f"{make_cell().id}  {make_cell().label}  start  7.0 s")
    assert lines[1] == "1 of 4 cells done · 1 attempt running · 0 waiting · stopping"
    assert lines[2].startswith("(that was ")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"running": [1]}', '{"running": null}'])
def test_a_damaged_progress_file_is_as_good_as_none(tmp_path, text):
    folder = new_run(tmp_path / "run")
    folder.progress_file.write_text(text)
    assert read_progress(folder) is None


def test_a_folder_that_takes_no_progress_file_does_not_stop_the_run(tmp_path):
    folder = new_run(tmp_path / "run")
    folder.progress_file.mkdir()
    Published(PlainDisplay(folder="run"), folder).show(state(tmp_path))
    assert read_progress(folder) is None
