"""Reports made up for tests of the renderers, and a reader of HTML that forgives nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from ssmbench.report._build import Group, Report
from ssmbench.report._figure import Figure
from ssmbench.report._provenance import Fact, Provenance
from ssmbench.report._source import Source
from ssmbench.report._table import Column, Shown, Table
from ssmbench.store import attempts

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from ssmbench.plan.cells import Cell
    from ssmbench.store.folder import RunFolder

_EMPTY = {"br", "hr", "img", "input", "link", "meta", "col"}
HOSTILE = "<b>\"x\" & 'y'</b> _a_ *b* |c| 100% $x$ #1 {z} ~ ^ \\end [i] é ▼ ☃"


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str = "", **wanted: str) -> list[Element]:
        """Every element below with this tag and these attributes; a class is one of its words."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if (not tag or child.tag == tag) and child.has(**wanted):
                    found.append(child)
                found += child.all(tag, **wanted)
        return found

    def has(self, **wanted: str) -> bool:
        words = {k.rstrip("_"): v for k, v in wanted.items()}
        return all(v in self.attributes.get(k, "").split() for k, v in words.items())

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    @property
    def ids(self) -> list[str]:
        return [e.attributes["id"] for e in self.all() if "id" in e.attributes]


class _Reader(HTMLParser):
    """Builds a tree; a tag that is not closed where it must be is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in _EMPTY:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _EMPTY:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str) -> Element:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root], [e.tag for e in reader.open]
    return reader.root


def check_page(page: Element) -> None:
    """What must hold of any page: no second id, no dead link, nothing from elsewhere."""
    ids = page.ids
    assert len(ids) == len(set(ids)), [i for i in ids if ids.count(i) > 1][:5]
    for element in page.all():
        for name in ("href", "src", "xlink:href", "srcset", "data", "action", "poster"):
            target = element.attributes.get(name)
            if target is None:
                continue
            if target.startswith("#"):
                assert target[1:] in ids, (element.tag, target)
            else:
                assert target.startswith("data:text/csv;base64,"), (element.tag, target)
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(element.attributes.get(name, "").split()) <= set(ids)
    for tag in ("script", "iframe", "object", "embed", "link", "base", "form"):
        assert page.all(tag) == [], tag
    assert "http" not in "".join(e.text for e in page.all("style"))
    assert "@import" not in "".join(e.text for e in page.all("style"))


def draw(canvas: Canvas) -> None:
    ax = canvas.add_subplot()
    ax.plot([1, 2, 3], [3.0, -1.0, 2.0], marker="o", label="wanda <0.5> & more")
    ax.fill_between([1, 2], [1, 2], hatch="//")
    ax.set_xlabel("context [tokens]")
    ax.legend()


def make_table(name: str = "scores", **options: Any) -> Table:
    columns = (
        Column("model", "left", parts=("model",), key=True),
        Column("method", "left", parts=("method",), key=True),
        Column("acc", unit="%", parts=("value",), prefix="acc"),
        Column("ppl", parts=("value",), prefix="ppl"),
    )
    texts = (
        ("a", "dense", "50.0 ±1.0", "10.0"),
        ("a", "wanda", "▼40.0 ±1.2", "▲12.0"),
        ("a", "random", "≈49.0 ±1.2", "▽10.1"),
        ("b", "dense", "51.0 ±1.0", "–"),
        ("", "chance", "25.0", "–"),
    )
    notes = {(3, 3): "not run: `ssmbench run g.yaml`", (4, 3): "not applicable", (1, 2): "a & b"}
    rows = tuple(
        tuple(
            Shown(
                text, {p: float(i) if j > 1 else text for p in columns[j].parts}, notes.get((i, j))
            )
            for j, text in enumerate(row)
        )
        for i, row in enumerate(texts)
    )
    made = {"title": f"Group: {name}", "columns": columns, "rows": rows, **options}
    return Table(name=name, sections=frozenset({0, 3, 4}), notes=("See `cmd` <1>.",), **made)


def make_figure(name: str = "front", **options: Any) -> Figure:
    told = {"caption": "Axes: `x` & <y>.", "alt": "A line that falls & rises.", "draw": draw}
    return Figure(f"Group: {name}", name, data=make_table(f"{name}-data"), **told | options)


def empty_figure(name: str = "nothing") -> Figure:
    reason = "no run has two lengths; `ssmbench run grids/context.yaml` measures them"
    return Figure(f"Group: {name}", name, "An axis.", reason=reason)


def make_report(*items: Table | Figure, title: str = "run", grid: str = "models: [a]\n") -> Report:
    facts = (Fact("cells", "done", 5, "cells"), Fact("code", "commit abc", 5, "attempts"))
    reasons = ("toy models (a)", "1 of 5 cells failed")
    told = Provenance(((Source(title, f"runs/{title}", grid), facts),), reasons, ("two differ",))
    group = Group("Group", "group", items or (make_table(), make_figure(), empty_figure()))
    facts_table = make_table("provenance", title="Provenance: facts")
    return Report(title, (group, Group("Provenance", "provenance", (facts_table,))), told)


def outcome(folder: RunFolder, cell: Cell, attempt_id: str, **facts: Any) -> None:
    """Write how an attempt ended: of clean code and one set of packages if not told otherwise."""
    told: dict[str, Any] = {
        "cell_id": cell.id,
        "attempt_id": attempt_id,
        "status": "done",
        "host": "node-1",
        "device": "H200",
        "started_s": 1_700_000_000.0,
        "ended_s": 1_700_000_060.0,
        "git_commit": "a" * 40,
        "git_dirty": False,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "seeds": {"cell": cell.seed},
        "suites": ["s1"],
    }
    attempts.write_outcome(folder, told | facts)
