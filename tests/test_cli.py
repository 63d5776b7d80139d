"""The command line: what each command prints, where, and its exit code."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from execute_helpers import make_model
from safetensors.torch import load_file
from store_helpers import new_run, synthetic_run

import ssmbench as package
from ssmbench.arguments import values
from ssmbench.cli import main
from ssmbench.errors import CommandError
from ssmbench.execute.prepare import Request

GRID = """
models: [{{name: tiny, path: {model}}}]
methods: [{{method: random, ratio: [0.3, 0.5]}}]
suites: [{{suite: perplexity, data: tinyworld, length: 64}}]
resources: {{num_cpus: {cpus}}}
"""


RANDOM = ["compress", "zoo-mamba-s", "--method", "random", "--out", "o"]
WANDA = ["compress", "zoo-mamba-s", "--method", "wanda", "--ratio", "0.5", "--out", "o"]


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
        (["compress", "zoo-mamba-s", "--method", "dense"], "--out"),
        (["compress", "zoo-mamba", "--method", "dense", "--out", "o"], "Did you mean 'zoo-mamba2'"),
        (
            ["compress", "no/such/model", "--method", "dense", "--out", "o"],
            "no/such/model: found no",
        ),
        (["compress", "zoo-mamba-s", "--method", "wnda", "--out", "o"], "Did you mean 'wanda'"),
        (["compress", "zoo-mamba-s", "--method", "wanda", "--out", "o"], "ratio: found none"),
        ([*RANDOM, "--ratio", "1"], "ratio: found 1.0"),
        ([*RANDOM, "--ratio", "0.5", "--param", "unit"], "--param unit: expected NAME=VALUE"),
        ([*RANDOM, "--ratio", "0.5", "--calibration", "c4"], "looks at no text"),
        ([*RANDOM, "--ratio", "0.5", "--samples", "0"], "--samples 0: expected 1 or more"),
        ([*RANDOM, "--ratio", "0.5", "--data", "nowhere"], "--data nowhere"),
        ([*RANDOM, "--ratio", "0.5", "--device", "tpu"], "--device tpu: expected cpu"),
        ([*WANDA, "--calibration", "wikitex"], "Did you mean 'wikitext'"),
        ([*RANDOM, "--ratio", "0.5", "--layout", "onnx"], "onnx"),
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
    told = [line for line in err.strip().splitlines() if not line.startswith("load ")]
    assert len(told) == 1
    assert "Traceback" not in err
    assert not Path("o").exists()


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
    assert out.startswith("UNPUBLISHABLE: --limit: first 2 documents only (perplexity)")
    assert ssmbench("report", "runs/g", "--format", "md", "--out", "-")[1].startswith("# g\n")
    assert ssmbench("report", "runs/g", "--format", "csv", "--out", "-")[1].startswith("# ")
    code, out, _ = ssmbench("report", "runs/g", "--format", "csv")
    assert (code, out) == (0, "runs/g/report/csv\n")
    assert list((place / "runs/g/report/csv").glob("*.csv"))
    code, out, _ = ssmbench("report", "runs/g", "--format", "latex,md", "--out", "pages")
    assert (code, out) == (0, "pages/report.tex\npages/report.md\n")
    assert (place / "pages/report.md").read_text().startswith("# g\n")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--out", "r"], "--out: expected --format"),
        (["--format", "html,pdf"], "there is no format 'pdf'. Known: csv, html, latex, md"),
        (["--format", "md", "--out", "r.md"], "--out - > r.md"),
        (["--format", "md,csv", "--out", "-"], "expected one format"),
        (["--format", "html", "--out", "-", "--open"], "expected one format"),
        (["--format", "md", "--out", "--open"], "found '--open'"),
        (["--format", "md", "--out", "occupied"], "cannot be written"),
        (["--format", "md", "--table", "x"], "--table: expected the terminal with it"),
        (["--table", "x"], "--table: there is no 'x'."),
    ],
)
def test_a_report_that_cannot_be_meant_is_refused(ssmbench, place, options, told):
    new_run(place / "run")
    (place / "occupied").write_text("a file")
    code, out, err = ssmbench("report", "run", *options)
    assert (code, out) == (2, "")
    assert told in err
    assert sorted(p.name for p in place.iterdir()) == ["occupied", "run"]


def test_some_tables_alone_are_printed(ssmbench, place):
    synthetic_run(place / "run", n_docs=4)
    out = ssmbench("report", "run", "--table", "compression,cost-*")[1]
    titles = re.findall(r"^(Compression|Cost|Quality|Training)\b", out, re.MULTILINE)
    assert titles[0] == "Compression"
    assert set(titles) == {"Compression", "Cost"}
    assert re.search(r"^\d+ more tables: ssmbench report run$", out, re.MULTILINE)


def test_several_runs_make_one_report_here(ssmbench, place):
    synthetic_run(place / "one", n_docs=4)
    shutil.copytree(place / "one", place / "two")
    code, out, err = ssmbench("report", "one", "two", "one", "--format", "csv")
    assert (code, out, err) == (0, "report-one+two/csv\n", "")


def test_the_page_is_opened_where_asked(ssmbench, place, monkeypatch):
    new_run(place / "run")
    asked = []
    monkeypatch.setattr("webbrowser.open", lambda address: asked.append(address) or True)
    assert ssmbench("report", "run", "--open")[:2] == (0, "run/report/report.html\n")
    assert asked == [(place / "run/report/report.html").as_uri()]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


MODEL_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_compress_writes_a_model_that_says_how_it_was_made(ssmbench, place):
    arguments = ("zoo-mamba2", "--method", "state", "--ratio", "0.5", "--param", "score=magnitude")
    code, out, err = ssmbench("compress", *arguments, "--out", "new/pruned")
    assert code == 0
    assert err.splitlines() == ["load zoo-mamba2", "compress: state 0/1", "write"]
    assert files(place / "new" / "pruned") == {*MODEL_FILES, "ssmbench.json"}
    record = json.loads((place / "new/pruned/ssmbench.json").read_text())
    model = package.load("new/pruned")
    n_parameters = sum(p.numel() for p in model.parameters())
    assert record["params_model"] == n_parameters < record["params_model_dense"]
    assert record["source"] == "zoo:mamba2"
    assert record["steps"] == [
        {
            "name": "state",
            "version": 1,
            "ratio": 0.5,
            "params": {"score": "magnitude", "granularity": 1},
        }
    ]
    assert record["ratio_achieved"] == 0.5
    assert record["calibration"] is None
    assert f"{n_parameters:,}" in out
    assert f"Comp. {100 * record['compression_mixer']:.2f} %" in out
    assert "removed 0.5000 (asked: state 0.5)" in out

    expected = package.compress(package.load("zoo-mamba2"), "state", 0.5, score="magnitude")
    assert model.description == expected.description
    ids = torch.arange(30)[None]
    assert torch.equal(model(ids), expected(ids))


def test_a_compressed_folder_scores_what_its_cell_scores(ssmbench, place, model_folder):
    """The command and a cell compress alike, and a grid takes what the command wrote."""
    grid = """
models: [{name: tiny, path: MODEL}]
methods: [METHOD]
suites: [{suite: perplexity, data: tinyworld, length: 64}]
calibration: {data: tinyworld, samples: 4, length: 32}
seeds: [3]
"""
    wanda = "{method: state+wanda, ratio: 0.5, state: {ratio: 0.25}}"
    cell = grid.replace("MODEL", str(model_folder)).replace("METHOD", wanda)
    (place / "cell.yaml").write_text(cell)
    (place / "folder.yaml").write_text(grid.replace("METHOD", "dense"))
    assert ssmbench("run", "cell.yaml", "--inline", "--limit", "2")[0] == 0
    windows = ("--calibration", "tinyworld", "--samples", "4", "--length", "32", "--seed", "3")
    chain = ("--method", "state+wanda", "--ratio", "0.5", "--param", "state.ratio=0.25")
    assert ssmbench("compress", str(model_folder), *chain, *windows, "--out", "o")[0] == 0
    assert json.loads(Path("o/ssmbench.json").read_text())["calibration"]["samples"] == 4
    moved = ("--model", "tiny=o")
    code, out, _ = ssmbench("plan", "folder.yaml", *moved)
    assert (code, "1 cell" in out) == (0, True)
    assert ssmbench("run", "folder.yaml", *moved, "--inline", "--limit", "2")[0] == 0
    query = "select value from metrics join cells using (cell_id) where "
    query += "metric = 'perplexity' and method = '{}'"
    scored = ssmbench("sql", "runs/cell", query.format("state+wanda"), "--format", "csv")[1]
    again = ssmbench("sql", "runs/folder", query.format("dense"), "--format", "csv")[1]
    assert scored == again
    assert len(scored.splitlines()) == 2


def test_compress_converts_between_layouts_and_dtypes(ssmbench, place):
    dense = ("--method", "dense")
    upstream = ("--layout", "transformers", "--dtype", "bfloat16", "--out", "t")
    assert ssmbench("compress", "zoo-mamba2", *dense, *upstream)[0] == 0
    config = json.loads((place / "t" / "config.json").read_text())
    assert config["model_type"] == "mamba2"
    weights = load_file(place / "t" / "model.safetensors").values()
    assert {w.dtype for w in weights} == {torch.bfloat16}
    assert ssmbench("compress", "t", *dense, "--layout", "upstream", "--out", "u")[0] == 0
    ids = torch.arange(30)[None]
    found, expected = (package.load(m, dtype="float16") for m in ("u", "t"))
    assert torch.equal(found(ids), expected(ids))
    found, expected = (package.load(m, dtype="bfloat16") for m in ("u", "zoo-mamba2"))
    assert torch.equal(found(ids), expected(ids))


def test_a_method_that_cannot_is_exit_code_1_and_writes_nothing(ssmbench, place):
    arguments = ("zoo-mamba2", "--method", "merge", "--ratio", "0.3", "--out", "o")
    code, out, err = ssmbench("compress", *arguments)
    assert (code, out) == (1, "")
    assert "ratio 0.3: found 1 / (1 - ratio)" in err
    assert not any(place.iterdir())


def test_what_is_there_is_not_written_over(ssmbench, place):
    (place / "o").mkdir()
    assert ssmbench(*RANDOM, "--ratio", "0.5")[0] == 0
    before = (place / "o" / "model.safetensors").read_bytes()
    code, _, err = ssmbench(*RANDOM, "--ratio", "0.6")
    assert code == 2
    assert err == "o: found a folder that is not empty; expected a new folder.\n"
    assert (place / "o" / "model.safetensors").read_bytes() == before
    (place / "file").touch()
    assert ssmbench(*RANDOM[:-1], "file", "--ratio", "0.5")[0] == 2


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2, "o: cannot be written (No space"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
    ],
)
def test_a_folder_that_cannot_be_finished_is_not_begun(
    ssmbench, place, monkeypatch, problem, code, words
):
    def fail(self, target):
        raise problem

    # Its weights are written by then.
    monkeypatch.setattr("shutil.copyfile", fail)
    found, out, err = ssmbench(*RANDOM, "--ratio", "0.5")
    assert (found, out) == (code, "")
    assert words in err
    assert not any(place.iterdir())


def test_a_folder_that_appears_meanwhile_is_left(ssmbench, place, monkeypatch):
    from ssmbench.execute import export

    def write_tokenizer(model, folder, data):
        (place / "o").mkdir()
        (place / "o" / "theirs").touch()

    monkeypatch.setattr(export, "_write_tokenizer", write_tokenizer)
    code, _, err = ssmbench(*RANDOM, "--ratio", "0.5")
    assert code == 2
    assert "o: appeared while the model was compressed" in err
    assert files(place / "o") == {"theirs"}
    assert files(place) == {"o"}


def test_a_model_without_a_tokenizer_is_written_and_said_to_be(ssmbench, place, model_folder):
    bare = place / "bare"
    shutil.copytree(model_folder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    code, _, err = ssmbench("compress", "bare", "--method", "dense", "--out", "o")
    assert code == 0
    assert f"! o has no tokenizer: {bare} has none" in err
    assert files(place / "o") == {"config.json", "model.safetensors", "ssmbench.json"}
    dense = ("--method", "dense", "--tokenizer", str(model_folder), "--out", "p")
    assert ssmbench("compress", "bare", *dense)[0] == 0
    assert files(place / "p") == {*MODEL_FILES, "ssmbench.json"}


def test_a_tokenizer_of_the_hub_is_taken_from_local_data_or_saved(
    ssmbench, place, model_folder, monkeypatch
):
    from ssmbench.execute import export
    from ssmbench.models.tokenizer import load_tokenizer

    bare = place / "bare"
    shutil.copytree(model_folder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    dense = ("compress", "bare", "--method", "dense", "--tokenizer", "owner/words")
    shutil.copytree(model_folder, place / "data" / "tokenizers" / "words")
    assert ssmbench(*dense, "--data", "data", "--out", "local")[0] == 0
    assert files(place / "local") == {*MODEL_FILES, "ssmbench.json"}

    code, _, err = ssmbench(*dense, "--out", "none")
    assert code == 0
    assert "! none has no tokenizer: tokenizer owner/words: cannot be loaded" in err

    own = load_tokenizer(str(model_folder))
    monkeypatch.setattr(export, "tokenizer_of", lambda model: own)
    assert ssmbench(*dense, "--out", "saved")[0] == 0
    text = "one two three"
    assert load_tokenizer(str(place / "saved"))(text) == own(text)


def test_parameters_are_json_or_text():
    given = ["a=1", "b=x", "c=[1, 2]", "d=true", 'e="1"', "f=null", "g=a=b", "s.t=0.5", "s.u=v"]
    assert values("--param", given) == {
        "a": 1,
        "b": "x",
        "c": [1, 2],
        "d": True,
        "e": "1",
        "f": None,
        "g": "a=b",
        "s": {"t": 0.5, "u": "v"},
    }
    for wrong in (["a"], ["=1"], ["a=1", "a=2"], ["s=1", "s.t=2"], ["s.=1"]):
        with pytest.raises(CommandError, match="--param"):
            values("--param", wrong)


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
    assert ssmbench("version")[1] == f"ssmbench {package.__version__}\n"
