"""Printing: nothing is cut in a pipe, nothing is read as markup, null is not a number."""

from __future__ import annotations

import io

import polars as pl
import pytest
from rich.console import Console

from ssmbench import console


@pytest.fixture
def narrow(monkeypatch):
    """A terminal of 30 columns; gives what was printed on it."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=30, color_system=None)
    monkeypatch.setattr(console, "out", lambda: terminal)
    return terminal.file.getvalue


def test_a_piped_table_is_as_wide_as_it_needs_to_be(capsys):
    console.rows(["name", "n"], [["x" * 200, "1"], ["[red]y", "23"]], right=["n"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["name" + " " * 196 + "   n", "x" * 200 + "   1", "[red]y" + " " * 194 + "  23"]


def test_wide_characters_are_counted_as_wide(capsys):
    console.rows(["a", "b"], [["日本", "1"], ["x", "2"]])
    assert capsys.readouterr().out.splitlines() == ["a     b", "日本  1", "x     2"]


def test_a_narrow_terminal_folds_columns(narrow):
    console.rows(["a", "b"], [["word " * 8, "1"]])
    assert all(len(line) <= 30 for line in narrow().splitlines())
    assert narrow().count("word") == 8


def test_a_frame_shows_null_as_a_dash_and_csv_as_nothing(capsys):
    data = pl.DataFrame({"name": ["a", None], "value": [0.123456789, None]})
    console.frame(data, format="table")
    assert capsys.readouterr().out.splitlines() == [
        "name     value",
        "a     0.123457",
        "–            –",
    ]
    console.frame(data, format="csv")
    assert capsys.readouterr().out == "name,value\na,0.123456789\n,\n"


def test_an_empty_frame_shows_its_columns(capsys):
    console.frame(pl.DataFrame(schema={"a": pl.Int64, "b": pl.String}), format="table")
    assert capsys.readouterr().out == "a  b\n"


def test_long_lines_are_not_broken_and_brackets_are_kept(capsys):
    text = "[bold] " + "word " * 100 + "end"
    console.note(text)
    console.result(text)
    captured = capsys.readouterr()
    assert captured.err == captured.out == text + "\n"


def test_counts_have_their_plural():
    assert [console.count(n, "cell") for n in (0, 1, 2)] == ["0 cells", "1 cell", "2 cells"]
