"""The command line: what each command prints, where, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from execute_helpers import make_model

from ssmbench.cli import main
from ssmbench.execute.prepare import Request

GRID = """
models: [{{name: tiny, path: {model}}}]
methods: [{{method: random, ratio: [0.3, 0.5]}}]
suites: [{{suite: perplexity, data: tinyworld, length: 64}}]
resources: {{num_cpus: {cpus}}}
"""


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def grid(place: Path, model_folder: Path) -> str:
    (place / "g.yaml").write_text(GRID.format(model=model_folder, cpus=1))
    return "g.yaml"


@pytest.fixture
def ssmbench(capsys):
    """Run a command line; give its exit code, stdout and stderr."""

    def run(*arguments: str):
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_run_measures_every_cell_and_the_same_command_resumes(ssmbench, grid):
    code, out, err = ssmbench("run", grid, "--inline", "--limit", "2")
    assert (code, out) == (0, "")
    assert "3 cells · 0 done before · 3 to run    runs/g" in err
    assert err.count("✓ tiny · ") == 3
    assert "✓ tiny · random 0.5  perplexity  " in err
    assert "ssmbench report runs/g" in err

    code, _, err = ssmbench("run", grid, "--inline", "--limit", "2")
    assert code == 0
    assert "3 cells · 3 done before · 0 to run" in err
    assert "✓" not in err


def test_an_amended_grid_runs_only_what_is_new(ssmbench, grid, place):
    ssmbench("run", grid, "--inline", "--limit", "2")
    path = place / grid
    path.write_text(path.read_text().replace("[0.3, 0.5]", "[0.3, 0.5, 0.7]"))
    _, out, _ = ssmbench("plan", grid, "--limit", "2")
    assert "to do: ratio 0.7 is new" in out
    _, _, err = ssmbench("run", grid, "--inline", "--limit", "2")
    assert err.count("✓") == 1
    assert "✓ tiny · random 0.7" in err


def test_only_runs_what_matches_and_withdraws_nothing(ssmbench, grid):
    ssmbench("run", grid, "--inline", "--limit", "2", "--only", "ratio=0.3")
    _, out, _ = ssmbench("status", "runs/g")
    assert out.startswith("1 cell · 1 done · 0 failed · 0 to do")


def test_plan_shows_one_line_a_cell_and_totals(ssmbench, grid):
    code, out, err = ssmbench("plan", grid)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["cell", "suites", "state", "FLOPs", "time"]
    assert len(lines) == 5
    assert all("to do: not run yet" in line for line in lines[1:4])
    assert lines[4].startswith("3 cells · 0 done · 3 to do · ")
    assert "runs/g" in err
    assert not Path("runs").exists()


def test_validate_counts_the_cells(ssmbench, grid):
    assert ssmbench("validate", grid) == (0, "g.yaml: 3 cells, no mistakes\n", "")


def test_a_wrong_grid_lists_its_mistakes_and_runs_nothing(ssmbench, grid, place):
    path = place / grid
    path.write_text(path.read_text().replace("random", "randm").replace("0.3", "1.3"))
    code, out, err = ssmbench("run", grid)
    assert (code, out) == (2, "")
    assert "g.yaml:3:" in err
    assert "Did you mean 'random'?" in err
    assert "2 problems; nothing was run." in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], None),
        (["rnu"], "Did you mean"),
        (["run"], "GRID"),
        (["run", "g.yaml", "--limt", "3"], "--limt"),
        (["run", "g.yaml", "--limit", "many"], "many"),
        (["run", "g.yaml", "--limit", "0"], "--limit 0"),
        (["run", "g.yaml", "--data", "nowhere"], "--data nowhere"),
        (["run", "g.yaml", "--model", "tiny"], "NAME=PATH"),
        (["run", "g.yaml", "--model", "tinny=x"], "Did you mean 'tiny'?"),
        (["run", "g.yaml", "--only", "ratio=9"], "no cell of the grid has ratio=9"),
        (["run", "g.yaml", "--inline", "--address", "auto"], "--inline and --address"),
        (["status", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["sql", "nowhere", "select 1"], "nowhere"),
        (["sql", "nowhere", "select 1", "--format", "xml"], "xml"),
    ],
)
def test_a_wrong_command_is_one_clear_line_and_exit_code_2(ssmbench, grid, arguments, words):
    code, out, err = ssmbench(*arguments)
    if words is None:
        assert "Usage" in out
        return
    assert code == 2
    assert out == ""
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_a_grid_that_is_not_there_is_named(ssmbench, place):
    code, _, err = ssmbench("run", "none.yaml")
    assert code == 2
    assert err.startswith("none.yaml: there is no such file")


def test_what_this_machine_cannot_give_is_exit_code_3(ssmbench, grid, place, model_folder):
    (place / grid).write_text(GRID.format(model=model_folder, cpus=5000))
    code, _, err = ssmbench("run", grid, "--inline")
    assert code == 3
    assert "asked for 5000 CPUs" in err
    assert "Nothing was run." in err


def test_a_cluster_that_does_not_answer_is_exit_code_3(ssmbench, grid):
    code, _, err = ssmbench("run", grid, "--address", "127.0.0.1:1")
    assert code == 3
    assert "--address 127.0.0.1:1: found no Ray cluster" in err


def test_failures_are_listed_with_log_and_command_and_stay_until_asked(
    ssmbench, grid, place, monkeypatch
):
    from ssmbench.errors import MethodError
    from ssmbench.methods import random

    kept = random.compress

    def compress(model, *, ratio, params, context):
        if ratio == 0.5:
            raise MethodError("half is too much")
        return kept(model, ratio=ratio, params=params, context=context)

    monkeypatch.setattr(random, "compress", compress)
    code, _, err = ssmbench("run", grid, "--inline", "--limit", "2", "--plain")
    assert code == 1
    assert "2 done · 1 failed" in err
    assert "user: half is too much" in err
    again = next(line for line in err.splitlines() if line.strip().startswith("again"))
    log = next(line for line in err.splitlines() if line.strip().startswith("log"))
    assert "half is too much" in Path(log.split()[1]).read_text()

    code, _, err = ssmbench("run", grid, "--inline", "--limit", "2")
    assert code == 1
    assert "1 failed before (--retry-failed tries them again)" in err
    assert "✓" not in err
    code, out, _ = ssmbench("status", "runs/g")
    assert "1 failed" in out
    assert "user: half is too much" in out
    assert "failed before: user" in ssmbench("plan", grid, "--limit", "2")[1]

    monkeypatch.undo()
    monkeypatch.chdir(place)
    words = again.split()
    assert words[1:4] == ["ssmbench", "run", grid]
    code, _, err = ssmbench(*words[2:])
    assert code == 0
    assert "1 cell ·" in err
    assert "✓ tiny · random 0.5" in err


def test_results_are_tables_csv_or_json(ssmbench, grid):
    ssmbench("run", grid, "--inline", "--limit", "2")
    query = "select method, ratio, status from cells order by ratio"
    code, out, err = ssmbench("sql", "runs/g", query)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["method", "ratio", "status"],
        ["dense", "0", "done"],
        ["random", "0.3", "done"],
        ["random", "0.5", "done"],
    ]
    csv = ssmbench("sql", "runs/g", query, "--format", "csv")[1]
    assert csv.splitlines()[:2] == ["method,ratio,status", "dense,0.0,done"]
    rows = json.loads(ssmbench("sql", "runs/g", query, "--format", "json")[1])
    assert rows[2] == {"method": "random", "ratio": 0.5, "status": "done"}
    assert ssmbench("sql", "runs/g", "select nope from cells")[0] == 2


def test_report_prints_or_writes(ssmbench, grid, place):
    ssmbench("run", grid, "--inline", "--limit", "2")
    code, out, _ = ssmbench("report", "runs/g")
    assert code == 0
    assert "random" in out
    assert not any(line != line.rstrip() for line in out.splitlines())
    assert ssmbench("report", "runs/g", "--format", "md")[1].startswith("# g\n")
    assert ssmbench("report", "runs/g", "--format", "md", "--out", "r.md")[0] == 0
    assert (place / "r.md").read_text().startswith("# g\n")
    assert ssmbench("report", "runs/g", "--format", "csv")[1].startswith("# ")
    assert ssmbench("report", "runs/g", "--format", "csv", "--out", "tables")[0] == 0
    assert list((place / "tables").glob("*.csv"))
    assert ssmbench("report", "runs/g", "--out", "r.txt")[0] == 2
    assert ssmbench("report", "runs/g", "--format", "md", "--out", "no/such/r.md")[0] == 2


def test_a_second_driver_is_refused_with_the_name_of_the_first(ssmbench, grid):
    from ssmbench.store.folder import RunFolder
    from ssmbench.store.ledger import Ledger

    ssmbench("run", grid, "--inline", "--limit", "2", "--only", "ratio=0")
    with Ledger.open(RunFolder.open(Path("runs/g"))):
        code, _, err = ssmbench("run", grid, "--inline", "--limit", "2")
        assert code == 2
        assert "--steal-lock" in err
        assert "driven by process" in ssmbench("status", "runs/g")[1]
    assert "no driver is at work" in ssmbench("status", "runs/g")[1]


def test_an_interrupt_prints_the_command_that_continues(ssmbench, grid, monkeypatch):
    from ssmbench.suites import perplexity

    def interrupt(context, params):
        raise KeyboardInterrupt

    monkeypatch.setattr(perplexity, "run", interrupt)
    code, _, err = ssmbench("run", grid, "--inline", "--limit", "2", "--out", "my run")
    assert code == 130
    assert "ssmbench run g.yaml --out 'my run' --limit 2 --inline" in err
    assert "Traceback" not in err


def test_a_request_writes_the_command_that_it_came_from():
    request = Request(
        grid=Path("g.yaml"),
        out=Path("r"),
        only=("a=b",),
        limit=3,
        data=Path("d"),
        models={"m": "x y"},
        tokenizers={"m": "t"},
        address="auto",
    )
    assert request.command() == (
        "ssmbench run g.yaml --out r --only a=b --limit 3 --data d --model 'm=x y'"
        " --tokenizer m=t --address auto"
    )
    assert "--only 12ab " in request.command(only="12ab", retry_failed=True)


def test_a_closed_pipe_is_no_error():
    code = "import sys; from ssmbench.cli import main; sys.exit(main(['models']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize("command", ["models", "methods", "suites"])
def test_what_exists_can_be_listed(ssmbench, command):
    code, out, _ = ssmbench(command)
    assert code == 0
    assert len(out.splitlines()) > 3


def test_the_version_is_the_packages(ssmbench):
    import ssmbench as package

    assert ssmbench("version")[1] == f"ssmbench {package.__version__}\n"
