"""Every command and every grid that the pages show is one that the program takes."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
from cyclopts import CycloptsError
from docs_helpers import PAGES, ROOT, commands, short
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ssmbench import plugins
from ssmbench.cli import app
from ssmbench.errors import GridError
from ssmbench.grid.catalogue import catalogue
from ssmbench.grid.read import read_grid
from ssmbench.grid.schema import Grid
from ssmbench.report._policy import read_policy

OTHERS = {"pip", "ray", "srun", "ssh", "sudo", "export", "source", "sleep", "wait", "trap"}
WHOLE = {"models": ["zoo-mamba2"], "methods": ["dense"], "suites": ["tinyworld"]}
# Folders that stand for the reader's own.
THEIRS = {"../checkpoints/my-mamba"}


def shown(page: Path) -> list[list[str]]:
    text = page.read_text("utf-8")
    return [words for block in commands.blocks(text) for words in commands.commands(block)]


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_ssmbench_commands_parse(page):
    for words in shown(page):
        if words[0] == "ssmbench":
            try:
                app.parse_args(words[1:], exit_on_error=False, print_error=False)
            except CycloptsError as error:
                pytest.fail(f"{' '.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_commands_in_sentences_exist_with_their_options(page):
    for _, name, *rest in commands.mentioned(page.read_text("utf-8")):
        assert name in set(app), name
        known = {n for argument in app[name].assemble_argument_collection() for n in argument.names}
        assert {w for w in rest if w.startswith("--")} <= known, (name, rest)


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_targets_scripts_and_grids_exist(page):
    text, makefile = page.read_text("utf-8"), (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for grid in re.findall(r"\bgrids/[\w-]+\.yaml", text):
        assert (ROOT / grid).is_file(), grid
    spans = [s.split() for s in re.findall(r"`(make [^`]+)`", text)]
    for words in [*shown(page), *spans]:
        if words[0] == "make":
            for word in words[1:]:
                name, equals, _ = word.partition("=")
                assert f"$({name})" in makefile if equals else word in targets, " ".join(words)
        elif re.fullmatch(r"(\S*/)?python", words[0]):
            check_script(words[1:])


def check_script(words: list[str]) -> None:
    """Look whether a script is there and knows its options."""
    if words[0] == "-c":
        compile(words[1], "the page", "exec")
        return
    if words[0] == "-m":
        spec = importlib.util.find_spec(words[1])
        assert spec is not None, words[1]
        source = Path(spec.origin or "").read_text("utf-8")
        assert all((ROOT / w).exists() for w in words[2:] if w.startswith("tests/")), words
    else:
        source = (ROOT / words[0]).read_text("utf-8")
    if words[:2] != ["-m", "pytest"]:
        assert all(f'"{w}"' in source for w in words[1:] if w.startswith("--")), words


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_what_is_not_run_has_a_reason(page):
    """So that docs/checks.md says of every command what is done with it."""
    text = page.read_text("utf-8")
    for block in commands.blocks(text):
        for words in commands.commands(block):
            if words[0] == "ssmbench" and not block.runs and commands.why_parsed(words) is None:
                assert words[1] in RUN_ELSEWHERE, " ".join(words)


# What tests/test_docs_run.py runs wherever it stands.
RUN_ELSEWHERE = {"sql", "report", "status", "compare", "flops", "plan", "validate", "version"}
RUN_ELSEWHERE |= {"models", "methods", "suites", "published"}


def grids(page: Path) -> list[tuple[str, dict]]:
    """Give the blocks that are a grid or a part of one, as text and as read."""
    found = []
    keys = set(Grid.model_fields)
    for block in commands.blocks(page.read_text("utf-8")):
        first = re.match(r"(\w+):", re.sub(r"^(#.*)?\n", "", block.text))
        if block.language == "yaml" or (not block.language and first and first[1] in keys):
            try:
                read = YAML(typ="safe").load(block.text)
            except YAMLError as error:
                pytest.fail(f"{page.name}, line {block.line}: {error}")
            if isinstance(read, dict) and set(read) <= keys:
                found.append((block.text, read))
    return found


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_grids_are_grids(page, tmp_path):
    """A part of one is completed by what it lacks."""
    titles = [block.title for block in commands.blocks(page.read_text("utf-8"))]
    examples = {Path(title).stem for title in titles if title.startswith("ssmbench/")}
    for text, read in grids(page):
        if any(name in text for name in examples):
            continue  # Of the page's own plugin: tests/test_docs_run.py runs it.
        named = {m for entry in read.get("methods", []) for m in models_of(entry)}
        more = {k: v for k, v in WHOLE.items() if k not in read}
        if "models" in more and named:
            more["models"] = sorted(named)
        if "fine_tune" in read and "methods" in more:
            more["methods"] = [{"method": "state", "ratio": 0.5}]
        whole = tmp_path / "grids" / "grid.yaml"
        whole.parent.mkdir(exist_ok=True)
        for theirs in THEIRS:
            if not (model := (whole.parent / theirs).resolve()).exists():
                shutil.copytree(ROOT / "ssmbench/zoo/checkpoints/mamba-s", model)
        whole.write_text(text + "".join(f"{k}: {v}\n" for k, v in more.items()))
        try:
            read_grid(whole)
        except GridError as error:
            pytest.fail(f"{error}\n{text}")


def test_the_policy_is_a_policy(tmp_path):
    page = ROOT / "docs" / "compare.md"
    (policy,) = (b for b in commands.blocks(page.read_text("utf-8")) if b.title == "policy.yaml")
    (tmp_path / "policy.yaml").write_text(policy.text, "utf-8")
    assert len(read_policy(tmp_path / "policy.yaml").rules) > 1


def models_of(entry) -> set[str]:
    """Give the catalogue's models that a method's entry names."""
    if not isinstance(entry, dict):
        return set()
    given = entry.get("models", [])
    return {m for m in ([given] if isinstance(given, str) else given) if m in catalogue()}


def test_a_wrong_command_and_a_wrong_grid_would_be_found(tmp_path):
    page = (
        "# A\n\n    ssmbench reprot runs/x\n\n```yaml\nmethods: [{method: wandaa, ratio: 2}]\n```\n"
    )
    (tmp_path / "a.md").write_text(page)
    with pytest.raises(pytest.fail.Exception, match="reprot"):
        test_ssmbench_commands_parse(tmp_path / "a.md")
    with pytest.raises(pytest.fail.Exception, match="wandaa"):
        test_grids_are_grids(tmp_path / "a.md", tmp_path)


def test_every_suite_and_method_that_a_page_links_to_is_there():
    for page in PAGES:
        for name in re.findall(r"suites\.md#(\w+)", page.read_text("utf-8")):
            assert name in plugins.names("suite"), name
