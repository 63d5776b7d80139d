"""Damaged run folders: every reader gives an error that names the file, or the right numbers.

A hundred or two here; `SSMBENCH_FUZZ=10000` tries as many, drawn anew each time.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from store_helpers import acc_rows, fail, finish, make_cell, make_suite, new_run, nll_rows

from ssmbench.cli import main
from ssmbench.errors import DONE, USAGE, StoreError
from ssmbench.store import attempts, compact, read
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

N = int(os.environ.get("SSMBENCH_FUZZ", "0"))
many = settings(
    max_examples=N or 120,
    derandomize=not N,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# --- the folder that is damaged -----------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of three cells and two suites: two starts, a failure, a retry, an adopted suite."""
    path = tmp_path_factory.mktemp("whole") / "run"
    folder = new_run(path)
    dense, wanda, lost = (
        make_cell(method=m, ratio=r) for m, r in (("dense", 0.0), ("wanda", 0.5), ("random", 0.7))
    )
    zero, ppl = make_suite(), make_suite("perplexity")
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run", "grid_hash": "0"})
        for cell in (dense, wanda, lost):
            ledger.cell(cell, [zero, ppl])
        finish(folder, ledger, dense, zero, acc_rows({"t": [1, 0, 1, 1]}), attempt="a1")
        finish(folder, ledger, dense, ppl, nll_rows([3.0, 4.0], [2.0, 2.0]), attempt="a1")
        fail(ledger, wanda, [zero], final=False)
        finish(folder, ledger, wanda, zero, acc_rows({"t": [1, 0, 0, 1]}), attempt="b2")
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, wanda, ppl, nll_rows([5.0, 4.0], [2.0, 2.0]), attempt="b3")
        fail(ledger, lost, [zero, ppl])
    for cell_id, attempt in ((dense.id, "a1"), (wanda.id, "b2"), (wanda.id, "b3")):
        known = {"cell_id": cell_id, "attempt_id": attempt, "status": "done", "started_s": 1.0}
        attempts.write_outcome(folder, known)
    return path


@pytest.fixture(scope="module")
def compacted(whole, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("compacted") / "run"
    shutil.copytree(whole, path)
    compact.compact(RunFolder.open(path))
    return path


def files(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


# --- damage -------------------------------------------------------------------------------

BYTES = (
    *("truncate", "empty", "flip", "zeros", "append", "garbage", "delete", "folder", "cut out"),
    *("repeat line", "drop line", "swap lines", "split line", "of another"),
)
JSON = ("value", "drop key", "add key", "wrap")
VALUES = st.sampled_from(
    (None, True, -1, 0, 10**30, 1.5, 1e308, "", "x", "../../x", "\0", [], {}, [[]], {"a": 1})
)
DAMAGE = st.tuples(
    st.sampled_from(BYTES + JSON),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.binary(min_size=1, max_size=20),
    VALUES,
)


def damage(path: Path, kind: str, place: float, other: float, junk: bytes, value: Any) -> None:
    """Damage one file in one way, at a place given as a fraction."""
    data = path.read_bytes()
    at, n = int(place * len(data)), max(1, int(other * 40))
    if kind in {"delete", "folder"}:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return
    if kind in JSON or "line" in kind:
        lines = data.split(b"\n")
        i, j = int(place * len(lines)), int(other * len(lines))
        if kind in JSON:
            lines[i] = with_other_json(lines[i], kind, other, value)
        elif kind == "drop line":
            del lines[i]
        elif kind == "repeat line":
            lines.insert(j, lines[i])
        elif kind == "split line":
            lines[i] = lines[i][:n] + b"\n" + lines[i][n:]
        else:
            lines[i], lines[j] = lines[j], lines[i]
        path.write_bytes(b"\n".join(lines))
        return
    changed = {
        "truncate": data[:at],
        "empty": b"",
        "flip": data[:at] + bytes([data[at] ^ (1 << n % 8)]) + data[at + 1 :] if data else b"",
        "zeros": data[:at] + b"\0" * n + data[at + n :],
        "append": data + junk,
        "garbage": junk,
        "cut out": data[:at] + data[at + n :],
        "of another": sorted(p for p in path.parent.iterdir() if p.is_file())[0].read_bytes(),
    }
    path.write_bytes(changed[kind])


def with_other_json(line: bytes, kind: str, place: float, value: Any) -> bytes:
    """Change one value of a line of JSON; other lines stay as they are."""
    try:
        tree = json.loads(line)
    except ValueError:
        return line
    found = list(inside(tree))
    if not found:
        return line
    above, key = found[int(place * len(found))]
    if kind == "drop key":
        del above[key]
    elif kind == "wrap":
        above[key] = [above[key]]
    elif kind == "add key" and isinstance(above, dict):
        above["added"] = value
    else:
        above[key] = value
    return json.dumps(tree).encode()


def inside(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict):
        items = list(tree.items())
    else:
        items = list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        yield tree, key
        yield from inside(value)


# --- what must hold -----------------------------------------------------------------------

NUMBERS = ("metrics", "samples", "latency", "layers")
IDS = ["cell_id", "suite_id"]


def collected(path: Path) -> dict[str, pl.DataFrame]:
    return {t: f.collect() for t, f in read.tables(RunFolder.open(path)).items()}


def check_numbers(found: dict[str, pl.DataFrame], right: dict[str, pl.DataFrame]) -> None:
    """What is there must be right: whole suites of the undamaged folder, none changed."""
    for table in NUMBERS:
        kept = right[table].join(found[table].select(IDS).unique(), on=IDS, how="semi")
        keys = [c for c in ("task", "metric", "doc_id") if c in kept.columns]
        order = [*IDS, *keys]
        assert_frame_equal(found[table].sort(order), kept.sort(order), check_exact=True)


def check_error(error: str, path: Path, name: str) -> None:
    """An error is short, names the damaged file (or its folder), and says what to do."""
    assert "Traceback" not in error
    assert len(error) < 2000
    assert name.split("/")[0] in error or str(path) in error, error


def check_readers(path: Path, name: str, right: dict[str, pl.DataFrame], capsys: Any) -> None:
    """Every command that reads gives right numbers or one error."""
    try:
        found = collected(path)
    except (StoreError, OSError) as error:
        check_error(str(error), path, name)
    else:
        check_numbers(found, right)
    for command in (
        ["status", str(path)],
        ["sql", str(path), "select * from metrics"],
        ["sql", str(path), "select * from attempts"],
        ["report", str(path), "--format", "md", "--out", "-"],
    ):
        code = main(command)
        printed = capsys.readouterr()
        assert code in {DONE, USAGE}, printed
        if code == USAGE:
            check_error(printed.err, path, name)


def check_driver(path: Path, name: str, right: dict[str, pl.DataFrame]) -> None:
    """A driver either refuses or commits whole suites alone."""
    try:
        with Ledger.open(RunFolder.open(path)) as ledger:
            ledger.adopt()
        found = collected(path)
    except (StoreError, OSError) as error:
        check_error(str(error), path, name)
    else:
        check_numbers(found, right)


@pytest.mark.parametrize("start", ["whole", "compacted"])
@many
@given(which=st.floats(0, 1, exclude_max=True), how=DAMAGE)
def test_a_damaged_file(start, which, how, request, tmp_path_factory, capsys):
    original = request.getfixturevalue(start)
    right = collected(request.getfixturevalue("whole"))
    names = files(original)
    name = names[int(which * len(names))]
    path = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(original, path)
    try:
        damage(path / name, *how)
        check_readers(path, name, right, capsys)
        check_driver(path, name, right)
    finally:
        shutil.rmtree(path)
