"""The documentation follows the code, its links lead somewhere, and the site builds."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from docs_helpers import DOCS, PAGES, ROOT, commands, short, site

if TYPE_CHECKING:
    from pathlib import Path

MARKDOWN = sorted({*PAGES, *ROOT.glob("*.md")})


def test_generated_pages_are_up_to_date():
    import generate

    for name, text in generate.pages().items():
        assert (DOCS / name).read_text("utf-8") == text, f"run `make docs`: {name} is stale"


def test_a_changed_number_of_the_zoo_makes_its_page_and_figure_stale(tmp_path, monkeypatch):
    from docmaker import zoo

    page, figure = (DOCS / "methods" / name for name in ("utrc.md", "figures/utrc.svg"))
    before = zoo.RESULTS.read_text("utf-8")
    changed = re.sub('(zoo-mamba2,utrc,"",0.5,0).', r"\1.1", before)
    assert changed != before
    (tmp_path / "methods.csv").write_text(changed, "utf-8")
    monkeypatch.setattr(zoo, "RESULTS", tmp_path / "methods.csv")
    assert zoo.fill_in("methods/utrc.md", page.read_text("utf-8")) != page.read_text("utf-8")
    assert zoo.figure("utrc") != figure.read_text("utf-8")


def slug(heading: str) -> str:
    """Give a heading's anchor, which is the same on the site and on a Git host, or fail."""
    plain = re.sub(r"[`*]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
    kept = re.sub(r"[^\w\s-]", "", plain)
    hosts, ours = kept.replace(" ", "-"), re.sub(r"[-\s]+", "-", kept)
    return ours if ours == hosts else ""


@cache
def anchors(page: Path) -> frozenset[str]:
    """Give the anchors of a page that are sure."""
    text = page.read_text("utf-8")
    for block in commands.blocks(text):
        text = text.replace(block.text, "\n")
    return frozenset(slug(h) for h in re.findall(r"^#+ (.+)$", text, re.MULTILINE))


@pytest.mark.parametrize("page", MARKDOWN, ids=short)
def test_links_between_pages_lead_somewhere(page):
    text = page.read_text("utf-8")
    for block in commands.blocks(text):
        text = text.replace(block.text, "\n")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        other = (page.parent / file).resolve() if file else page
        assert other.exists(), target
        assert page.is_relative_to(DOCS) <= other.is_relative_to(DOCS), f"{target}: not on the site"
        if anchor:
            assert anchor in anchors(other), target


class Page(HTMLParser):
    """What a page of the site refers to, and its own anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif given.get("href") or given.get("src"):
            self.loads.append(given.get("href") or given["src"])


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    site.build(folder)
    return folder / "site"


def test_the_site_builds_and_all_of_it_leads_somewhere_without_a_network(built):
    pages = {path: Page(path.read_text("utf-8")) for path in built.rglob("*.html")}
    pages.pop(built / "404.html")  # Served from anywhere, so its addresses begin at the root.
    assert len(pages) >= 40
    for path, page in pages.items():
        for target in page.loads:
            assert "//" not in target, f"{path.name} loads {target}"
            assert (path.parent / unquote(target)).exists(), f"{path.name} loads {target}"
        for target in page.links:
            if "://" in target:
                continue
            file, _, anchor = unquote(target).partition("#")
            other = (path.parent / file).resolve() if file else path
            assert other.exists(), f"{path.name}: {target}"
            if anchor and not anchor.startswith("__") and other in pages:
                assert anchor in pages[other].ids, f"{path.name}: {target}"
    for style in built.rglob("assets/**/*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text("utf-8"))


def test_every_page_stands_once_in_the_navigation():
    named = [page for section in site.navigation() for pages in section.values() for page in pages]
    wanted = [p.relative_to(DOCS).as_posix() for p in site.sources() if p.suffix == ".md"]
    assert sorted(named) == sorted(wanted), "docs/docmaker/site.py names the pages"


def test_every_method_has_a_page_with_all_its_parts():
    from ssmbench import plugins

    for name in plugins.names("method"):
        page = (DOCS / "methods" / f"{name}.md").read_text("utf-8")
        wanted = ["In a grid", "Parameters", "What to know", "On the zoo"]
        assert set(wanted) <= set(re.findall(r"^## (.+)$", page, re.MULTILINE)), name
        assert name == "dense" or f"figures/{name}.svg" in page, name


def test_a_dead_link_fails_the_site(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[b](nowhere.md)\n")
    monkeypatch.setattr(site, "DOCS", tmp_path / "docs")
    with pytest.raises(SystemExit, match="does not exist"):
        site.build(tmp_path / "build")


def test_search_works_from_the_disk_by_our_own_script(built):
    index = (built / "search.js").read_text("utf-8")
    assert "Five minutes" in index
    page = (built / "index.html").read_text("utf-8")
    assert "assets/iframe-worker.js" in page
    worker = next((built / "assets/javascripts/workers").glob("search*.js")).read_text("utf-8")
    # All that the tool's worker asks of a worker is what our script has.
    assert set(re.findall(r"self\.(\w+)", worker)) <= {"onmessage", "postMessage"}


def test_the_generator_tells_its_options():
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"--zoo", "--site"} <= set(re.findall(r"--\w+", done.stdout))
