"""What the pages tell a reader to type is typed, in an empty folder, and works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from docs_helpers import PAGES, ROOT, commands, plugins_from, short, text

import ssmbench
from ssmbench import cli

RUNNABLE = [p for p in PAGES if any(b.runs for b in commands.blocks(p.read_text("utf-8")))]
PRINTED = "<!-- printed -->"
# They read a run folder, whosever it is.
READERS = {"sql", "report", "status", "compare"}
# They need nothing but what is in the repository.
ALWAYS = {"flops", "plan", "validate", "models", "methods", "suites", "version", "published"}


def type_in(words: list[str], capsys) -> str:
    """Run one command; give what it printed."""
    capsys.readouterr()
    code = cli.main(words[1:])
    printed = capsys.readouterr()
    assert code == 0, f"{shlex.join(words)}\n{printed.out}{printed.err}"
    return str(printed.out)


def follow(page: str, capsys) -> dict[str, str]:
    """Do all that a page says may be done, in order; give each command's output."""
    content, printed = text(page), {}
    found = list(commands.blocks(content))
    for block in found:
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text, "utf-8")
    with plugins_from(Path.cwd()):
        for block in found:
            if block.runs and block.language == "python":
                exec(compile(block.text, page, "exec"), {"__name__": "example"})
            elif block.runs:
                for words in commands.commands(block):
                    printed[shlex.join(words)] = type_in(words, capsys)
    return printed


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture(scope="module")
def first_run(tmp_path_factory) -> Path:
    """The run folder that docs/start.md leaves."""
    folder = tmp_path_factory.mktemp("first")
    (block,) = (b for b in commands.blocks(text("docs/start.md")) if b.title == "first.yaml")
    (folder / "first.yaml").write_text(block.text, "utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert cli.main(["run", "first.yaml", "--inline", "--plain"]) == 0
    finally:
        os.chdir(before)
    return folder / "runs" / "first"


def test_five_minutes(place, first_run, capsys):
    """The first run has been made; what follows finds it, as a second start would."""
    shutil.copytree(first_run, place / "runs" / "first")
    printed = follow("docs/start.md", capsys)
    assert "4 cells, no mistakes" in printed["ssmbench validate first.yaml"]
    report = printed["ssmbench report runs/first"]
    assert all(word in report for word in ("dense", "wanda", "state", "tinyworld"))
    assert list((place / "tables").rglob("*tinyworld*.csv"))
    assert ssmbench.load("pruned").description.layers[0].mixer.n_heads == 3
    asked = next(out for line, out in printed.items() if line.startswith("ssmbench sql"))
    assert "tw_pair" in asked


def test_the_python_of_the_readme(place, capsys, monkeypatch):
    """On ten documents a task: the README's own call scores two hundred."""
    scored = {}

    def evaluate(*args, **options):
        scored.update(genuine(*args, limit=10, **options))
        return scored

    genuine = ssmbench.evaluate
    monkeypatch.setattr(ssmbench, "evaluate", evaluate, raising=False)
    follow("README.md", capsys)
    assert len(scored["metrics"].filter(metric="acc")) == 6
    assert ssmbench.load("pruned").description.layers[0].mixer.head_dim == 12


def test_a_method_is_added(place, capsys):
    import test_methods as contract

    printed = follow("docs/how-to/method.md", capsys)
    metrics = ssmbench.results("runs/columns")["metrics"].filter(metric="acc")
    assert len(metrics) == 5 * 6
    assert printed["ssmbench report runs/columns"].count("column_norm") >= 2
    with plugins_from(place):
        name = "column_norm"
        contract.test_the_contract_is_kept(name)
        for family, layers in (("mamba2", "ssm"), ("hybrid_llama", "all"), ("gpt_neox", "mlp")):
            contract.test_ratio_zero_is_bit_identical_to_dense(name, family, layers)
            contract.test_the_asked_share_is_removed_and_nothing_else_is_touched(
                name, family, layers, 0.25
            )


def test_a_suite_is_added(place, capsys):
    printed = follow("docs/how-to/suite.md", capsys)
    tables = ssmbench.results("runs/agreement")
    scores = tables["metrics"].join(tables["cells"], on="cell_id").sort("ratio")
    dense, quarter, half = scores["value"]
    assert dense == 1
    assert 0.5 < half < quarter < 1
    # Samples make it paired: the report has an interval of the difference.
    assert re.search(r"agreement.*\[−", printed["ssmbench report runs/agreement"], re.DOTALL)


def test_a_report_is_added(place, capsys):
    printed = follow("docs/how-to/report.md", capsys)
    table = printed["ssmbench report runs/times"].partition("Longest attempts")[2]
    assert "zoo-mamba-s · magnitude 0.5" in table


def test_a_family_is_added(place, capsys, monkeypatch):
    import test_families as contract

    follow("docs/how-to/family.md", capsys)
    with plugins_from(place):
        monkeypatch.setattr(contract, "FAMILIES", (*contract.FAMILIES, "reef"))
        contract.test_a_config_is_read_back_as_the_description_that_it_was_written_from("reef")
        contract.test_weights_go_to_the_published_layout_and_back("reef", place / "again")


def test_what_a_page_says_is_printed_is_printed(place, capsys):
    content = text("docs/checkpoints.md")
    printed = follow("docs/checkpoints.md", capsys)
    shown = content.partition(PRINTED)[2].split("\n\n")[1]
    assert printed
    assert shown.split() == "".join(printed.values()).split()


def test_no_other_page_has_blocks_to_run():
    here = Path(__file__).read_text("utf-8")
    for page in RUNNABLE:
        assert f'"{short(page)}"' in here, f"{short(page)} is not followed by any test"


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_commands_on_any_run_work_on_the_first(page, first_run, place, capsys):
    """Queries find their columns, and reports their options, on the run of docs/start.md."""
    for block in commands.blocks(page.read_text("utf-8")):
        for words in commands.commands(block):
            if words[:1] != ["ssmbench"] or block.runs or commands.why_parsed(words):
                continue
            if words[1] in READERS:
                folders = [w for w in words if w.startswith("runs/") or w == "RUN"]
                assert folders, words
                type_in([str(first_run) if w in folders else w for w in words], capsys)
            elif words[1] in ALWAYS:
                type_in([w.replace("grids/", f"{ROOT}/grids/") for w in words], capsys)
            else:
                raise AssertionError(f"nobody runs {shlex.join(words)}")


def test_a_query_that_does_not_fit_would_be_found(first_run, place, capsys, tmp_path):
    page = tmp_path / "page.md"
    page.write_text('# A\n\n    ssmbench sql runs/x "select nothing from cells"\n')
    with pytest.raises(AssertionError, match="nothing"):
        test_commands_on_any_run_work_on_the_first(page, first_run, place, capsys)


def test_the_zoo_numbers_are_those_of_the_report(first_run, place, monkeypatch):
    """`generate.py --zoo RUN` writes what the run has."""
    from docmaker import zoo

    monkeypatch.setattr(zoo, "RESULTS", place / "zoo" / "methods.csv")
    zoo.collect([str(first_run)])
    found = zoo.results()
    assert found["method"].to_list() == ["dense", "wanda", "wanda", "state"]
    tables = ssmbench.results(first_run)
    scores = tables["metrics"].filter(metric="acc").join(tables["cells"], on="cell_id")
    wanted = scores.filter(method="state")["value"].mean()
    assert found.filter(method="state")["accuracy"][0] == pytest.approx(wanted, abs=1e-6)
    dense, state = (found.filter(method=m)["accuracy"][0] for m in ("dense", "state"))
    assert found.filter(method="state")["difference"][0] == pytest.approx(state - dense, abs=2e-6)
