"""The page: one file that stands alone, says what it holds, and can be read by anyone."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import re
from xml.etree import ElementTree

import pytest
from report_helpers import (
    HOSTILE,
    Element,
    check_page,
    empty_figure,
    make_figure,
    make_report,
    make_table,
    parse,
)
from store_helpers import synthetic_run

from ssmbench.report import _draw, _html
from ssmbench.report._build import build_report
from ssmbench.report._html_table import table_html
from ssmbench.report._render import csv_text
from ssmbench.report._source import results_of
from ssmbench.report._table import Column, Shown, Table


@pytest.fixture(scope="module")
def made() -> tuple[str, Element]:
    """A page of one table, one figure and one that is not there."""
    html = _html.page(make_report(), svg=_draw.svg)
    return html, parse(html)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Element:
    """The page of a whole run, its figures not drawn."""
    folder = synthetic_run(tmp_path_factory.mktemp("html") / "run", n_docs=10, limit=10)
    report = build_report(results_of([folder]))
    return parse(_html.page(report, svg=lambda figure: f"<svg><title>{figure.name}</title></svg>"))


def first(page: Element, tag: str, **wanted: str) -> Element:
    return page.all(tag, **wanted)[0]


def test_a_page_stands_alone_and_every_link_in_it_leads_somewhere(made, whole):
    for page in (made[1], whole):
        check_page(page)
        assert len(page.all("h1")) == 1
        assert page.children[0].startswith("\n") or page.all("html")


def test_headings_go_down_one_level_at_a_time(whole):
    levels = [int(e.tag[1]) for e in whole.all() if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert levels.count(1) == 1


def test_the_contents_name_every_table_and_figure(whole):
    nav = first(whole, "nav")
    entries = {a.attributes["href"][1:]: a.text for a in nav.all("a")}
    shown = {h.attributes["id"] for h in (*whole.all("h2"), *whole.all("h3"))}
    assert set(entries) == shown
    assert entries["quality-zero_shot-acc"] == "zero_shot (acc, %)"


def test_tables_say_what_each_of_their_cells_is(whole):
    tables = whole.all("table")
    assert len(tables) > 5
    for table in tables:
        assert first(table, "caption").text
        assert len(table.all("thead")) == 1
        assert all("scope" in th.attributes for th in table.all("th"))
        width = sum(int(e.attributes.get("colspan", "1")) for e in cells(first(table, "tr")))
        for body in table.all("tbody"):
            for row in body.all("tr"):
                found = cells(row)
                assert sum(int(e.attributes.get("colspan", "1")) for e in found) == width
                assert [e.tag for e in found].count("th") == 1
        (box,) = [e for e in whole.all("div", class_="scroll") if table in e.children]
        assert (box.attributes["tabindex"], box.attributes["role"]) == ("0", "region")


def cells(row: Element) -> list[Element]:
    return [e for e in row.children if isinstance(e, Element)]


def test_a_model_stands_once_above_its_rows():
    page = parse(table_html(make_table()))
    bodies = page.all("tbody")
    assert [[cells(r)[0].text for r in b.all("tr")] for b in bodies] == [
        ["a", "dense", "wanda", "random"],
        ["b", "dense"],
        ["chance"],
    ]
    assert [e.attributes["colspan"] for e in page.all("th", scope="rowgroup")] == ["3", "3"]
    assert [e.text for e in first(page, "thead").all("th")] == ["method", "acc [%]", "ppl"]


def test_a_first_column_that_never_repeats_stays_a_column():
    table = make_table()
    few = Table("T", "t", table.columns, (table.rows[0], table.rows[3]))
    page = parse(table_html(few))
    assert next(e.text for e in first(page, "thead").all("th")) == "model"
    assert page.all("th", scope="rowgroup") == []


def test_noise_is_quiet_and_what_survives_is_strong():
    page = parse(table_html(make_table()))
    found = {e.text: e.attributes.get("class", "") for e in page.all("td")}
    assert found["▼40.0 ±1.21"] == "sure"
    assert found["▲12.0"] == "sure"
    assert found["▽10.1"] == "maybe"
    assert found["≈49.0 ±1.2"] == "noise"
    assert found["50.0 ±1.0"] == found["10.0"] == ""
    assert found["–2"] == "none"
    assert [e.text for e in page.all("span", class_="pm")][:2] == [" ±1.0", " ±1.2"]


def test_footnotes_are_linked_both_ways():
    page = parse(table_html(make_table()))
    marks = [a for sup in page.all("sup") for a in sup.all("a")]
    feet = {li.attributes["id"]: li for li in page.all("li")}
    assert [m.attributes["href"][1:] for m in marks] == list(feet)
    for mark, foot in zip(marks, feet.values(), strict=True):
        (back,) = foot.all("a")
        assert back.attributes["href"] == f"#{mark.attributes['id']}"
    assert [li.all("code")[0].text for li in feet.values() if li.all("code")] == [
        "ssmbench run g.yaml"
    ]


def test_a_note_that_stands_twice_has_one_footnote():
    note = Shown("–", note="same")
    table = Table("T", "t", (Column("a"), Column("b")), ((note, note), (note, Shown("1"))))
    page = parse(table_html(table))
    assert len(page.all("li")) == 1
    assert [e.attributes.get("id") for e in page.all("a") if e.text == "1"] == ["t.r1", None, None]


def test_columns_of_a_group_stand_under_it():
    columns = (
        Column("model", "left", key=True),
        Column("dense"),
        *(Column(name, group=f"{r} %") for r in (25, 50) for name in ("a", "b")),
        Column("last"),
    )
    row = tuple(Shown(str(i)) for i in range(len(columns)))
    page = parse(table_html(Table("T", "t", columns, (row,))))
    upper, lower = first(page, "thead").all("tr")
    assert [(e.text, e.attributes.get("colspan")) for e in upper.all("th")] == [
        ("model", None),
        ("dense", None),
        ("25 %", "2"),
        ("50 %", "2"),
        ("last", None),
    ]
    assert {e.attributes.get("rowspan") for e in upper.all("th", scope="col")} == {"2"}
    assert [e.text for e in lower.all("th")] == ["a", "b", "a", "b"]


def test_what_is_not_for_publication_stands_above_everything(made):
    page = made[1]
    told = [p.text for p in first(page, "header").all("p", class_="warn")]
    assert told == [
        "UNPUBLISHABLE: toy models (a); 1 of 5 cells failed.",
        "Warning: two differ.",
    ]
    html = made[0]
    assert html.index("UNPUBLISHABLE") < html.index("<table")


def test_a_trial_run_is_marked_at_each_of_its_tables(whole):
    table = next(e for e in whole.all("section") if e.has(**{"aria-labelledby": "cost-size"}))
    quality = next(
        e for e in whole.all("section") if e.has(**{"aria-labelledby": "quality-zero_shot-acc"})
    )
    assert [p.text for p in quality.all("p", class_="warn")] == [
        "Not publishable: first 10 documents only."
    ]
    assert table.all("p", class_="warn") == []
    assert "--limit: first 10 documents only" in first(whole, "header").text


def test_the_grid_is_on_the_page_folded(made):
    (shown,) = list(first(made[1], "main").all("details"))
    assert shown.all("pre")[0].text == "models: [a]\n"
    assert "open" not in shown.attributes


def test_hostile_names_stay_text():
    table = make_table(title=HOSTILE)
    row = tuple(Shown(HOSTILE, note=HOSTILE) for _ in table.columns)
    columns = tuple(Column(HOSTILE, unit="<u>", group="<g>") for _ in table.columns)
    bad = Table(HOSTILE, "bad", columns, (row, row), notes=(HOSTILE,), warnings=(HOSTILE,))
    figure = make_figure("drawn", alt=HOSTILE)
    report = make_report(bad, figure, title=HOSTILE, grid=HOSTILE)
    page = parse(_html.page(report, svg=_draw.svg))
    check_page(page)
    assert first(page, "h1").text == HOSTILE
    assert page.all("b") == []
    body = [e.text for e in first(page, "tbody").all("td")]
    assert body[0].startswith(HOSTILE)
    assert HOSTILE in [d.text for d in page.all("desc")]
    assert HOSTILE in [p.text for p in page.all("pre")]


def test_plain_numbers_can_be_taken_from_the_page(made):
    (link,) = [
        a for a in made[1].all("a", class_="data") if a.attributes["download"] == "front.csv"
    ]
    text = base64.b64decode(link.attributes["href"].partition(",")[2]).decode()
    assert text == csv_text(make_table("front-data"))
    assert next(iter(csv.reader(io.StringIO(text)))) == [
        "model",
        "method",
        "acc_value",
        "ppl_value",
    ]


def test_a_figure_that_is_not_there_says_why_in_its_place(made):
    (empty,) = made[1].all("figure", class_="empty")
    assert empty.text.strip() == (
        "No figure: No run has two lengths; ssmbench run grids/context.yaml measures them."
    )
    assert empty.all("code")[0].text == "ssmbench run grids/context.yaml"


def test_figures_are_drawn_in_the_page_with_words_for_those_who_cannot_see_them(made):
    (figure,) = [f for f in made[1].all("figure") if f.all("svg")]
    assert first(figure, "svg").attributes["role"] == "img"
    assert first(figure, "desc").text == "A line that falls & rises."
    assert first(figure, "figcaption").text == "Axes: x & <y>."
    assert "wanda <0.5> & more" in [t.text for t in figure.all("text")]


def test_two_figures_of_one_shape_share_no_id():
    report = make_report(make_figure("one"), make_figure("two"), empty_figure())
    page = parse(_html.page(report, svg=_draw.svg))
    check_page(page)
    drawn = [f for f in page.all("figure") if f.all("svg")]
    for name, figure in zip(("one", "two"), drawn, strict=True):
        ids = set(figure.ids)
        assert ids
        assert all(i.startswith(f"{name}.") for i in ids)
        used = re.findall(
            r"url\(#([^)]+)\)", " ".join(" ".join(e.attributes.values()) for e in figure.all())
        )
        assert used
        assert set(used) <= ids


def test_an_svg_is_a_document_of_its_own():
    root = ElementTree.fromstring(_draw.svg(make_figure()))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["viewBox"] == "0 0 504 302.4"
    assert [c.text for c in root][:2] == ["Group: front", "A line that falls & rises."]
    assert not [e for e in root.iter() if e.tag.endswith(("style", "metadata"))]


def test_the_same_report_is_the_same_bytes_again():
    pages = [_html.page(make_report(), svg=_draw.svg) for _ in range(2)]
    assert pages[0] == pages[1]


def test_key_columns_stay_in_sight_one_after_another():
    page = table_html(make_table())
    assert '<table style="--w0:7.5ch;--x0:0ch">' in page
    assert page.count(' class="k s0 edge t"') == 6
    wide = Column("m" * 40, "left", key=True), Column("n", "left", key=True), Column("v")
    row = tuple(Shown(t) for t in ("x" * 40, "y", "1"))
    text = table_html(Table("T", "t", wide, (row,)))
    assert '<table style="--w0:25.5ch;--x0:0ch;--w1:2.5ch;--x1:25.5ch">' in text
    assert '<th scope="row" class="k s0 t">' in text
    assert '<td class="k s1 edge t">y</td><td>1</td>' in text
