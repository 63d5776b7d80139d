"""Write the pages of docs/ that follow from the code, or build the site of them all.

    python docs/generate.py                 the pages: `make docs`
    python docs/generate.py --zoo RUN …     the zoo's numbers first, from finished runs
    python docs/generate.py --site FOLDER   the site, into a folder: `make site`

Tests fail when a page is stale, a link is dead or a command does not parse.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from docmaker import commands, fault_page, grid_page, plugin_pages, site, zoo
from docmaker.text import DOCS

from ssmbench.grid.schema import json_schema
from ssmbench.store import columns


def pages() -> dict[str, str]:
    """Give every generated page: file name → text."""
    results = (DOCS / "results.md").read_text("utf-8")
    methods = plugin_pages.method_pages()
    return {
        "grid-file.md": grid_page.grid_page(),
        "compare.md": grid_page.compare_page(),
        "suites.md": plugin_pages.suite_page(),
        "families.md": plugin_pages.family_page(),
        "faults.md": fault_page.fault_page(),
        "results.md": columns.fill_in(results),
        "grid.schema.json": json.dumps(json_schema(), indent=1) + "\n",
        "methods/index.md": plugin_pages.method_index(),
        "checks.md": commands.page(),
        **{name: zoo.fill_in(name, text) for name, text in methods.items()},
        "zoo.md": zoo.overview((DOCS / "zoo.md").read_text("utf-8")),
        **zoo.figures(),
    }


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Write the generated pages, or build the site.")
    parser.add_argument("--zoo", nargs="+", metavar="RUN", help="take the zoo's numbers from these")
    parser.add_argument("--site", type=Path, metavar="FOLDER", help="build the site into this one")
    given = parser.parse_args()
    if given.site:
        site.build(given.site)
        return
    if given.zoo:
        zoo.collect(given.zoo)
    for name, text in pages().items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
