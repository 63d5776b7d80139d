"""Markdown, LaTeX and files: what each format says, and that writing one loses nothing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pytest
from report_helpers import HOSTILE, empty_figure, make_figure, make_report, make_table
from rich.console import Console

from ssmbench.errors import CommandError
from ssmbench.report import _draw, _latex, _markdown, _render, _write
from ssmbench.report._latex_text import latex_prose, latex_text
from ssmbench.report._table import Column, Shown, Table
from ssmbench.report._text import Parts, parts, prose, texts
from ssmbench.store import atomic

if TYPE_CHECKING:
    from pathlib import Path

ALL = ("html", "md", "latex", "csv")


# --- words --------------------------------------------------------------------------------


def test_equal_notes_share_one_footnote():
    one, two = Shown("–", note="x"), Shown("–", note="y")
    table = Table("T", "t", (Column("a"), Column("b")), ((one, two), (two, Shown("1"))))
    shown = texts(table)
    assert shown.rows == [["–¹", "–²"], ["–²", "1"]]
    assert shown.footnotes == ["x", "y"]
    assert shown.numbers == [[1, 2], [2, None]]


@pytest.mark.parametrize(
    ("text", "found", "certainty"),
    [
        ("▼25.0 ±17.7", ("▼", "25.0", " ±17.7"), "sure"),
        ("△+1.0 [+0.1, +1.9]", ("△", "+1.0", " [+0.1, +1.9]"), "maybe"),
        ("≈−1.0 [−2.5, +0.5]", ("≈", "−1.0", " [−2.5, +0.5]"), "noise"),
        ("1.2 M [1.1 M]", ("", "1.2 M [1.1 M]", ""), ""),
        ("25.0 ms ×1.60", ("", "25.0 ms ×1.60", ""), ""),
        ("", ("", "", ""), ""),
        ("–", ("", "–", ""), ""),
    ],
)
def test_a_cell_is_taken_apart_without_loss(text, found, certainty):
    assert parts(text) == Parts(*found)
    assert "".join(parts(text)) == text
    assert parts(text).certainty == certainty


def test_what_stands_between_backticks_is_code_and_a_single_one_is_not():
    made = prose("run `a_b` or ` not", str.upper, lambda code: f"<{code}>")
    assert made == "RUN <a_b> OR ` NOT"


# --- Markdown -----------------------------------------------------------------------------


def test_a_markdown_page_has_everything_in_order():
    page = _markdown.page(make_report())
    heads = re.findall(r"^#+ .*", page, flags=re.M)
    assert heads == [
        "# run",
        "## Group",
        "### scores",
        "### front",
        "### nothing",
        "## Provenance",
        "### facts",
    ]
    lines = page.splitlines()
    assert lines[2] == "**UNPUBLISHABLE: toy models (a); 1 of 5 cells failed.**"
    assert "![A line that falls & rises.](figures/front.svg)" in lines
    assert "¹ a & b  " in lines
    assert "² not run: `ssmbench run g.yaml`  " in lines
    assert (
        "*No figure:* no run has two lengths; `ssmbench run grids/context.yaml` measures them"
        in lines
    )
    assert page.endswith("```yaml\nmodels: [a]\n```\n\n</details>\n")


def test_a_grid_cannot_end_its_own_block():
    page = _markdown.page(make_report(grid="a: |\n  ```\n  # not a heading\n"))
    assert page.count("````") == 2
    assert "````yaml\na: |\n  ```\n" in page


def test_a_group_of_columns_is_named_with_each_of_them():
    columns = (Column("model"), Column("acc", unit="%", group="50 %"))
    table = Table("T", "t", columns, ((Shown("a"), Shown("1")),))
    assert "| model | 50 % acc \\[%] |" in _markdown.table(table)
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(_render.terminal(table, width=80))
    assert "50 % acc [%]" in shown.get()


# --- LaTeX --------------------------------------------------------------------------------


def test_every_character_is_escaped_or_told():
    for code in (*range(9, 0x250), 0x2212, 0x25BC, 0x2248, 0x2581, 0x2603, 0x1F600):
        made = latex_text(chr(code))
        assert balanced(made), made
        bare = re.sub(r"\\[a-zA-Z]+|\\[{}$&%#_,]|\^\{", "", made)
        assert not set(bare) & set("\\$&%#_^"), made
        assert "[" not in re.sub(r"\{[][]\}", "", bare), made
        assert all(c < "\x7f" or 0xC0 <= ord(c) < 0x180 for c in made), made
        assert made.strip() or chr(code).isspace(), code


def balanced(text: str) -> bool:
    depth = 0
    for sign in re.sub(r"\\[{}]", "", text):
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return False
    return depth == 0


def test_prose_has_code_in_typewriter():
    assert latex_prose("see `a_b`: 5 %") == r"see \texttt{a\_b}: 5 \%"


def body(text: str) -> list[str]:
    """The rows between the rules, without those that are rules themselves."""
    start, end = (
        (r"\endfoot", r"\end{longtable}")
        if "longtable}{" in text
        else (r"\midrule", r"\bottomrule")
    )
    inner = text.partition(f"{start}\n")[2].partition(end)[0]
    return [line for line in inner.splitlines() if line != r"\midrule"]


def check_latex(text: str) -> None:
    assert balanced(text)
    open_ones: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert open_ones == []


def n_cells(row: str) -> int:
    spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", row)]
    return len(re.findall(r"(?<!\\)&", row)) + 1 + sum(spans) - len(spans)


def test_a_table_is_a_float_with_rules_notes_caption_and_label():
    text = _latex.table(make_table(), comments=("UNPUBLISHABLE: toys",))
    check_latex(text)
    assert text.startswith("% UNPUBLISHABLE: toys\n% needs the packages amssymb, booktabs")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert rf"\{rule}" in text
    assert r"\caption{Group: scores}\label{tab:scores}" in text
    assert r"\begin{tabular}{llrr}" in text
    rows = body(text)
    assert [n_cells(row) for row in rows] == [4] * 5
    assert rows[0] == r"a & dense & 50.0 \ensuremath{\pm}1.0 & 10.0 \\"
    # The same model as above; the number that survives is bold.
    assert rows[1] == (
        r" & wanda & \ensuremath{\blacktriangledown}\textbf{40.0} \ensuremath{\pm}1.2"
        r"\textsuperscript{1} & \ensuremath{\blacktriangle}\textbf{12.0} \\"
    )
    assert rows[2] == (
        r" & random & \ensuremath{\approx}49.0 \ensuremath{\pm}1.2"
        r" & \ensuremath{\triangledown}10.1 \\"
    )
    assert r"\textsuperscript{2} not run: \texttt{ssmbench run g.yaml}\par" in text
    assert r"See \texttt{cmd} \textless{}1\textgreater{}.\par" in text


def test_groups_of_columns_span_them():
    columns = (
        Column("model", "left", key=True),
        *(Column(name, group=f"{r} %") for r in (25, 50) for name in ("a", "b")),
        Column("last"),
    )
    row = tuple(Shown(str(i)) for i in range(len(columns)))
    text = _latex.table(Table("T", "t", columns, (row,)))
    check_latex(text)
    upper, lower = text.partition(r"\toprule")[2].partition(r"\midrule")[0].strip("\n").splitlines()
    assert upper == (
        r" & \multicolumn{2}{c}{25 \%} & \multicolumn{2}{c}{50 \%} &  \\"
        r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}"
    )
    assert n_cells(upper) == n_cells(lower) == 6


def test_a_table_longer_than_a_page_breaks_and_repeats_its_head():
    columns = (Column("model", key=True), Column("v"))
    rows = tuple((Shown(f"m{i}"), Shown(str(i))) for i in range(60))
    text = _latex.table(Table("T", "t", columns, rows))
    check_latex(text)
    assert r"\begin{longtable}" in text
    assert text.count(r"model & v \\") == 2
    assert len(body(text)) == 60


def test_a_table_too_wide_for_a_page_becomes_several_each_with_its_own_footnotes():
    columns = (Column("model", "left", key=True), *(Column(f"c{i}") for i in range(20)))
    row = (Shown("m"), *(Shown("1" * 20, note=f"note {i}") for i in range(20)))
    text = _latex.table(Table("T", "t", columns, (row,)))
    check_latex(text)
    tables = text.split(r"\begin{table}")[1:]
    assert len(tables) > 1
    assert [t.count("m &") for t in tables] == [1] * len(tables)
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert labels == ["tab:t", *(f"tab:t-{i}" for i in range(2, len(tables) + 1))]
    for table in tables:
        marks = set(re.findall(r"1\\textsuperscript\{(\d+)\}", table))
        told = set(re.findall(r"^\\textsuperscript\{(\d+)\} note", table, flags=re.M))
        assert marks == told
    assert text.count(" note ") == 20


def test_hostile_names_leave_latex_whole():
    columns = (Column(HOSTILE, group="%_"), Column("b", unit="%", group="%_"))
    row = (Shown(HOSTILE, note=HOSTILE), Shown("1"))
    table = Table(HOSTILE, "t", columns, (row,), notes=(HOSTILE,), warnings=(HOSTILE,))
    text = _latex.table(table)
    check_latex(text)
    assert [n_cells(line) for line in body(text)] == [2]
    document = _latex.document(make_report(table, title=HOSTILE, grid=HOSTILE + "\nx: 1"))
    check_latex("\n".join(x for x in document.splitlines() if not x.startswith("%")))
    before = document.partition(r"\documentclass")[0]
    assert all(line.startswith("%") for line in before.splitlines())
    assert "%   | x: 1" in before.splitlines()


# --- figures ------------------------------------------------------------------------------


def test_a_figure_is_the_same_bytes_whatever_the_users_settings():
    figure = make_figure()
    first = _draw.svg(figure), _draw.png(figure), _draw.pdf(figure)
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 5, "svg.fonttype": "path"}):
        again = _draw.svg(figure), _draw.png(figure), _draw.pdf(figure)
        assert mpl.rcParams["font.size"] == 20
    assert first == again


def test_a_png_has_200_dots_per_inch():
    data = _draw.png(make_figure(size=(2.0, 1.0)))
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (400, 200)


def test_a_figure_that_cannot_draw_itself_says_which_and_nothing_is_written(tmp_path):
    def broken(canvas: Any) -> None:
        canvas.add_subplot().plot([1, 2], [1])

    report = make_report(make_table(), make_figure("bad", draw=broken))
    with pytest.raises(ValueError, match="shape") as caught:
        _write.write(report, tmp_path / "out", ("csv", "html"))
    assert caught.value.__notes__ == ["while drawing the figure 'bad'"]
    assert not (tmp_path / "out").exists()


# --- files --------------------------------------------------------------------------------


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "report"
    _write.write(make_report(), folder, ALL)
    return folder


def test_every_format_has_its_files_and_they_name_no_other(written):
    assert files(written) == {
        *("report.html", "report.md", "report.tex", "report.json"),
        *("csv/scores.csv", "csv/front.csv", "csv/provenance.csv"),
        *("tables/scores.tex", "tables/provenance.tex"),
        *("figures/front.svg", "figures/front.png", "figures/front.pdf"),
    }
    tex, md = (written / "report.tex").read_text(), (written / "report.md").read_text()
    named = re.findall(r"\\(?:input|includegraphics\[[^]]*\])\{([^}]*)\}", tex)
    named += re.findall(r"\]\(([^)]*)\)", md)
    assert named
    assert set(named) <= files(written)


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.tex", "tables/scores.tex"])
def test_what_is_not_for_publication_is_the_first_thing_said(written, name):
    text = (written / name).read_text()
    first_number = text.index(r"\section" if name == "report.tex" else "wanda")
    assert text.index("UNPUBLISHABLE:") < first_number


def test_a_report_is_the_same_bytes_again(written, tmp_path):
    _write.write(make_report(), tmp_path, ALL)
    assert files(tmp_path) == files(written)
    for name in files(written):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


def test_a_new_report_replaces_the_earlier_one_and_touches_nothing_else(tmp_path):
    _write.write(make_report(make_table("old"), make_figure("gone")), tmp_path, ("md", "csv"))
    (tmp_path / "csv/mine.csv").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    _write.write(make_report(make_table("new")), tmp_path, ("csv",))
    assert files(tmp_path) == {
        *("report.json", "notes.txt", "csv/mine.csv", "csv/new.csv", "csv/provenance.csv"),
        # Markdown was not asked for this time.
        *("report.md", "figures/gone.svg", "figures/gone.png"),
    }
    _write.write(make_report(make_table("new")), tmp_path, ("md",))
    assert not (tmp_path / "figures/gone.svg").exists()
    assert (tmp_path / "csv/mine.csv").read_text() == "mine"


def test_somebody_elses_file_of_that_name_is_not_overwritten(tmp_path):
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(CommandError, match=r"report\.md: is not of an earlier report"):
        _write.write(make_report(make_table()), tmp_path, ("csv", "md"))
    assert files(tmp_path) == {"report.md"}


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "other", "files": {}}', '{"kind": 1}'])
def test_a_damaged_list_is_told_and_nothing_is_removed(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(CommandError, match=r"report\.json: is not the list"):
        _write.write(make_report(make_table()), tmp_path, ("csv",))
    assert files(tmp_path) == {"report.json"}


def test_a_list_cannot_have_other_files_removed(tmp_path):
    for name in ("../outside", "notes.txt", "csv/../notes.txt", "deep/a/b.csv"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    before = files(tmp_path)
    listed = {"csv": [*("../outside", "notes.txt", "csv/../notes.txt", "deep/a/b.csv", "csv/..")]}
    text = json.dumps({"kind": "ssmbench report", "files": listed})
    (tmp_path / "out/report.json").write_text(text)
    _write.write(make_report(make_table()), tmp_path / "out", ("csv",))
    assert files(tmp_path) - before == {
        *("out/report.json", "out/csv/scores.csv", "out/csv/provenance.csv")
    }
    assert before <= files(tmp_path)


@pytest.mark.parametrize("n_writes", range(5))
def test_a_death_between_two_files_leaves_all_of_them_known(tmp_path, monkeypatch, n_writes):
    """Whatever is there after it, the next report replaces or removes, and none is half."""
    _write.write(make_report(make_table("old"), make_table("both")), tmp_path, ("csv",))
    right = atomic.write_bytes
    left = iter(range(n_writes))

    def dies(*args: Any, **options: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        right(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_bytes", dies)
        with pytest.raises(KeyboardInterrupt):
            _write.write(make_report(make_table("new"), make_table("both")), tmp_path, ("csv",))
    listed = json.loads((tmp_path / "report.json").read_text())["files"]["csv"]
    assert files(tmp_path) - {"report.json"} <= set(listed)
    _write.write(make_report(make_table("last")), tmp_path, ("csv",))
    assert files(tmp_path) == {"report.json", "csv/last.csv", "csv/provenance.csv"}


def test_one_format_can_be_piped():
    report = make_report(make_table(), empty_figure())
    assert _write.as_text(report, "md") == _markdown.page(report)
    assert _write.as_text(report, "csv").startswith("# scores\nmodel,method,acc_value,ppl_value\n")
    assert _write.as_text(report, "latex").count(r"\begin{tabular}") == 2
    assert _write.as_text(report, "html").startswith("<!DOCTYPE html>")


def test_formats_are_a_list_without_repeats():
    assert _write.formats_of("html, md,html") == ("html", "md")
    with pytest.raises(CommandError, match=r"no format 'htm'\. Did you mean 'html'\?"):
        _write.formats_of("md,htm")
