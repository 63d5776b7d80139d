"""Build the site: the pages with their navigation, for a browser without a network.

The tool wants its configuration, pages and output below one folder, so all three are put
together in a folder of their own; docs/ holds nothing but sources.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from docmaker.text import DOCS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHOWN = (".md", ".svg", ".css", ".js", ".json")
"""Files of docs/ that belong on the site."""

NAVIGATION: list[Any] = [
    {"Start": ["index.md", "start.md", "install.md", "zoo.md"]},
    {
        "Measure": [
            "grid-file.md",
            "suites.md",
            "families.md",
            "fine-tuning.md",
            "flops.md",
            "checkpoints.md",
            "results.md",
            "reports.md",
            "compare.md",
        ]
    },
    {
        "Methods": [
            "methods/index.md",
            "methods/dense.md",
            "methods/wanda.md",
            "methods/magnitude.md",
            "methods/random.md",
            "methods/state.md",
            "methods/head_dim.md",
            "methods/head.md",
            "methods/merge.md",
            "methods/ssm_flap.md",
            "methods/block.md",
            "methods/simba.md",
            "methods/utrc.md",
        ]
    },
    {"Reproduce": ["reproduce/pruning.md", "reproduce/simba.md", "simba.md"]},
    {
        "Run": [
            "local-data.md",
            "cluster.md",
            "gpu.md",
            "object-stores.md",
            "faults.md",
            "reliability.md",
            "performance.md",
        ]
    },
    {
        "Extend": [
            "how-to/method.md",
            "how-to/family.md",
            "how-to/suite.md",
            "how-to/report.md",
            "checks.md",
        ]
    },
]

CONFIGURATION: dict[str, Any] = {
    "site_name": "ssmbench",
    "site_description": "What compression does to state-space language models",
    "docs_dir": "pages",
    "site_dir": "site",
    "copyright": "Apache-2.0",
    "extra_css": ["assets/site.css"],
    "theme": {
        "language": "en",
        # Fonts of the reader's own: nothing is fetched.
        "font": False,
        "features": [
            "navigation.indexes",
            "navigation.footer",
            "navigation.top",
            "content.code.copy",
            "search.highlight",
        ],
        "palette": [
            {"media": "(prefers-color-scheme: light)", "scheme": "default"},
            {"media": "(prefers-color-scheme: dark)", "scheme": "slate"},
        ],
    },
    "plugins": ["search", "offline"],
    # Search from file:// needs workers there; without this the tool would load a shim from a CDN.
    "extra": {"polyfills": ["assets/iframe-worker.js"]},
}


def build(folder: Path) -> None:
    """Build the site into `folder`/site, offline, and fail on any warning.

    Raises:
        SystemExit: the tool warned of something, such as a dead link; its words are printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("pages", "site"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for source in sources():
        target = folder / "pages" / source.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    # JSON is YAML, which the tool reads.
    configuration = CONFIGURATION | {"nav": navigation()}
    (folder / "mkdocs.yml").write_text(json.dumps(configuration, indent=1), "utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(
        [*command, "--config-file", str(folder / "mkdocs.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or "Warning" in done.stdout + done.stderr:
        raise SystemExit(done.stdout + done.stderr)


def sources() -> Iterator[Path]:
    """Give the files of docs/ that belong on the site."""
    for path in sorted(DOCS.rglob("*")):
        if path.suffix in SHOWN and not path.name.endswith(".in.md"):
            yield path


def navigation() -> list[Any]:
    """Give the navigation: pages that exist, and the decisions by number."""
    decisions = [f"decisions/{p.name}" for p in sorted(DOCS.glob("decisions/*.md"))]
    sections = [*NAVIGATION, {"Decisions": decisions}]
    return [
        {title: [page for page in pages if (DOCS / page).exists()]}
        for section in sections
        for title, pages in section.items()
    ]
