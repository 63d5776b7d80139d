"""Mutated grid files: each gives a plan, or numbered mistakes; never a traceback.

A few hundred here; `SSMBENCH_FUZZ=10000` tries as many, drawn anew each time.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ssmbench.errors import GridError
from ssmbench.execute.prepare import Prepared, Request, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

N = int(os.environ.get("SSMBENCH_FUZZ", "0"))
GRIDS = sorted((Path(__file__).parents[1] / "grids").glob("*.yaml"))
# The bound is for what would take minutes: on this side of it everything takes milliseconds.
many = settings(
    max_examples=N or 150,
    derandomize=not N,
    deadline=datetime.timedelta(seconds=30),
    suppress_health_check=list(HealthCheck),
)

# --- edits of the text --------------------------------------------------------------------

PIECES = (
    *"[]{}:,-#&*!|>'\"%@`?\t\n\r \0\x7f\x85\u2028\ufeff\U0001f600é~=<.\\/",
    *(": ", "- ", "\n\n", "---\n", "...\n", "%YAML 1.1\n", "<<: *new\n", "&a ", "*a", "? ", "!!"),
    *("!!python/object:os.system ", "!!binary ", "!!set ", "!!float ", "!!int ", "!!bool "),
    *("null", "true", "no", ".nan", ".inf", "-1", "0x1f", "1e400", "9" * 400, "1_000", "0.99999"),
    *("2026-11-22", "12:30:45", "dense", "wanda", "simba+wanda", "+", "zoo-*", "tinyworld"),
    *("models:", "methods:", "suites:", "ratio: ", "seeds: [1, 1]\n", "params: {a: 1}\n", "[]"),
    *(
        "{match_flops: zoo-mamba-s}",
        "{ratio: 0.5}",
        "..",
        "~/x",
        "zoo:",
        "x" * 300,
        "[" * 200,
        "9" * 5000,
    ),
    *("2026-13-45", "!!set a", "!!omap [a]", "!!int a", "[" * 99 + "]" * 99, "{a: " * 60),
)
EDITS = st.tuples(
    st.sampled_from(("insert", "cut", "replace", "copy", "indent", "swap lines", "byte", "case")),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 60),
    st.sampled_from(PIECES),
)


def edited(data: bytes, edit: tuple[str, float, int, str]) -> bytes:
    """Give a grid's text with one edit at a place given as a fraction."""
    kind, place, n, piece = edit
    at = int(place * (len(data) + 1))
    if kind == "byte":
        return data[:at] + bytes([n * 4 % 256]) + data[at + n % 2 :]
    if kind == "cut":
        return data[:at] + data[at + n :]
    if kind == "copy":
        return data[: at + n] + data[at:]
    if kind == "replace":
        return data[:at] + piece.encode() + data[at + n % 8 :]
    if kind == "insert":
        return data[:at] + piece.encode() + data[at:]
    if kind == "case":
        return data[:at] + data[at : at + n].swapcase() + data[at + n :]
    lines = data.split(b"\n")
    i = int(place * len(lines))
    if kind == "indent":
        lines[i] = b" " * (n % 5) + lines[i].lstrip()
    else:
        lines[i], lines[n % len(lines)] = lines[n % len(lines)], lines[i]
    return b"\n".join(lines)


@pytest.fixture(scope="module")
def write(tmp_path_factory) -> Callable[[bytes], Path]:
    path = tmp_path_factory.mktemp("fuzz") / "grid.yaml"

    def overwrite(data: bytes) -> Path:
        path.write_bytes(data)
        return path

    return overwrite


def check(path: Path) -> None:
    """Plan a grid; a mistake must be told as the house tells it."""
    n_lines = len(path.read_bytes().splitlines()) + 1
    problems: tuple[str, ...] = ("no problem is listed",)
    try:
        check_plan(prepare(Request(grid=path)))
    except GridError as error:
        problems = error.problems or problems
    else:
        return
    for problem in problems:
        check_problem(problem.removeprefix(str(path)), n_lines)


def check_problem(problem: str, n_lines: int) -> None:
    """A problem is file:line:column: a sentence in our words."""
    found = re.match(r":(\d+):(\d+): (\S.*)", problem, re.DOTALL)
    assert found, problem
    assert 1 <= int(found[1]) <= n_lines, problem
    assert int(found[2]) >= 1, problem
    for word in ("Traceback", "pydantic", "ruamel", "NoneType", "<class", "Error(", "object at 0x"):
        assert word not in found[3], problem


def check_plan(prepared: Prepared) -> None:
    ids = [entry.cell.id for entry in prepared.entries]
    assert ids
    assert len(ids) == len(set(ids))
    for entry in prepared.entries:
        assert 0 <= entry.cell.ratio < 1
        assert entry.cell.model.fingerprint


@many
@given(st.sampled_from(GRIDS), st.lists(EDITS, min_size=1, max_size=4))
def test_a_grid_with_edited_text(write, grid, edits):
    data = grid.read_bytes()
    for edit in edits:
        data = edited(data, edit)
    check(write(data))


# --- edits of the tree --------------------------------------------------------------------

WORDS = (
    *("dense", "random", "wanda", "head", "merge", "simba", "state+wanda", "block+block", "+", ""),
    *("zoo-mamba-s", "zoo-mamba2", "mamba-130m", "nobody", "zoo-*", "[", "zoo:zoo-mamba-s", "zoo:"),
    *("a/b", "/", ".", "..", "~", "~nobody/x", "a/b/c", "\0", "x\ny", "tinyworld", "wikitext"),
    *("latency", "perplexity", "few_shot", "lm_eval", "zero_shot", "none", "lora", "float16", "é"),
)
KEYS = (
    *("models", "methods", "suites", "seeds", "dtype", "calibration", "resources", "isolate"),
    *("name", "path", "family", "tokenizer", "revision", "method", "suite", "ratio", "params"),
    *("match_flops", "prompt", "answer", "head", "otherwise", "data", "samples", "length", "seed"),
    *("n", "tasks", "targets", "schedule", "power", "criterion", "layers", "score", "prefill"),
    *("contexts", "timing", "num_cpus", "num_gpus", "labels", "fine_tune", "batch_tokens", "limit"),
    *("timeout_min", "simba", "wanda", "nonsense", "", " ", "self", "__class__", "cls", "context"),
)
SCALARS = st.one_of(
    st.sampled_from(WORDS),
    st.integers(-2, 3),
    st.sampled_from((10**6, 10**18, 10**40, -(10**40), 2**31, 2**32 - 1, 2**63)),
    st.floats(),
    st.sampled_from((0.5, 0.25, 0.999999999999, 1e-300, 1e300)),
    st.booleans(),
    st.none(),
    st.just(datetime.date(2026, 11, 22)),
    st.just(datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)),
    st.just(b"bytes"),
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), SCALARS), inner, max_size=3),
    ),
    max_leaves=5,
)
CHANGES = st.tuples(
    st.sampled_from(("value", "delete", "copy", "rename", "add", "wrap", "move", "widen")),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(KEYS),
    VALUES,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Give every (container, key or index) of a tree."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield value, key
        yield from places(inner)


def change(tree: Any, edit: tuple[str, float, float, str, Any]) -> None:
    """Make one change in a tree, at a place given as a fraction."""
    kind, place, other, key, value = edit
    found = list(places(tree))
    if not found:
        return
    (above, at), (giver, source) = found[int(place * len(found))], found[int(other * len(found))]
    if kind == "delete":
        del above[at]
    elif kind == "copy" and isinstance(above, list):
        above.insert(at, above[at])
    elif kind == "rename" and isinstance(above, dict):
        above[key] = above.pop(at)
    elif kind == "add" and isinstance(above[at], dict):
        above[at][key] = value
    elif kind == "wrap":
        above[at] = [above[at]]
    elif kind == "widen":
        above[at] = {key: above[at]}
    elif kind == "move":
        above[at] = plain(giver[source])
    else:
        above[at] = value


def plain(value: Any) -> Any:
    """Copy a tree, so that no part is in it twice."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


def written(value: Any, indent: str = "") -> str:
    """Write a tree as YAML in block style, where it can be."""
    if isinstance(value, dict) and value:
        pairs = ((written(k).strip(), written(v, f"{indent}  ")) for k, v in value.items())
        return "".join(f"\n{indent}{k}:{v}" for k, v in pairs)
    if isinstance(value, list) and value:
        return "".join(f"\n{indent}-{written(v, f'{indent}  ')}" for v in value)
    return f" {scalar(value)}"


def scalar(value: Any) -> str:
    if isinstance(value, bytes):
        return f"!!binary {base64.b64encode(value).decode()}"
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    if isinstance(value, datetime.date):
        return value.isoformat()
    return json.dumps(value)


@many
@given(st.sampled_from(GRIDS), st.lists(CHANGES, min_size=1, max_size=3))
def test_a_grid_with_a_changed_tree(write, grid, changes):
    tree = plain(YAML(typ="safe", pure=True).load(grid.read_text()))
    for edit in changes:
        change(tree, edit)
    check(write(written(tree).encode()))


def test_what_is_written_is_read_again():
    yaml = YAML(typ="safe", pure=True)
    for grid in GRIDS:
        tree = plain(yaml.load(grid.read_text()))
        assert plain(yaml.load(written(tree))) == tree


@pytest.mark.parametrize(
    ("line", "place", "told"),
    [
        ("name: 2026-13-45", "4:7", "cannot be read as a date"),
        ("name: !!int many", "4:7", "cannot be read as a number"),
        ("name: !!set x", "4:7", "cannot be read as !!set"),
        (f"seeds: [{'9' * 5000}]", "4:9", "cannot be read as a number"),
        (f"seeds: {'[' * 60}{']' * 60}", "4:57", "more than 50 lists and mappings"),
        ("name: &a x\nseeds: [&a 1]", "5:9", "the anchor &a is given a second time (first on"),
    ],
)
def test_what_yaml_only_breaks_on_is_told_at_its_place(write, line, place, told):
    path = write(f"models: [zoo-mamba-s]\nmethods: [dense]\nsuites: [latency]\n{line}\n".encode())
    with pytest.raises(GridError) as caught:
        prepare(Request(grid=path))
    assert caught.value.problems[0].startswith(f"{path}:{place}: ")
    assert told in caught.value.problems[0]


@settings(max_examples=N or 100, derandomize=not N, suppress_health_check=list(HealthCheck))
@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda t: t.encode("utf-8"))))
def test_a_file_of_anything(write, data):
    check(write(data))
