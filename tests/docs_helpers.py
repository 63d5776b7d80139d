"""The pages of docs/ and their code blocks, as `docs/docmaker` reads them."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS))

from docmaker import commands, site  # noqa: E402 - docs/ is no package

__all__ = ["DOCS", "PAGES", "ROOT", "commands", "plugins_from", "short", "site", "text"]

PAGES = commands.pages()


def short(path: Path) -> str:
    """Name a page in a test's id."""
    return str(path.relative_to(ROOT))


def text(page: str) -> str:
    """Read a page, by its name in the repository."""
    return (ROOT / page).read_text("utf-8")


@contextlib.contextmanager
def plugins_from(folder: Path) -> Iterator[list[tuple[str, str]]]:
    """Let the program find the plugins below a folder, such as ssmbench/methods/x.py.

    Gives (kind, name) of each.
    """
    from ssmbench import plugins

    found = []
    packages = {kind: importlib.import_module(name) for kind, name in plugins.FOLDERS.items()}
    for kind, package in packages.items():
        place = folder / package.__name__.replace(".", "/")
        found += [(kind, file.stem) for file in place.glob("*.py")]
        package.__path__.append(str(place))
    importlib.invalidate_caches()
    plugins.names.cache_clear()
    try:
        yield found
    finally:
        for package in packages.values():
            package.__path__.pop()
        for kind, name in found:
            sys.modules.pop(f"{packages[kind].__name__}.{name}", None)
            if hasattr(packages[kind], name):
                delattr(packages[kind], name)
        plugins.names.cache_clear()
