"""A file is the registration: `wanda` is `ssmbench/methods/wanda.py`.

Names are read from the folder without importing anything; a module is imported when it is
asked for. Files that start with an underscore are helpers, not plugins; so are folders.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from ssmbench.errors import UnknownName

if TYPE_CHECKING:
    from types import ModuleType

FOLDERS = {
    "family": "ssmbench.models.families",
    "method": "ssmbench.methods",
    "suite": "ssmbench.suites",
    "report": "ssmbench.report",
}


@cache
def names(kind: str) -> tuple[str, ...]:
    """List the plugins of a kind ("family", "method", "suite" or "report"), sorted."""
    package = importlib.import_module(FOLDERS[kind])
    found = (m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg)
    return tuple(sorted(n for n in found if not n.startswith("_")))


def load(kind: str, name: str) -> ModuleType:
    """Import one plugin.

    Raises:
        UnknownName: no file of that kind has this name; the message lists those that exist.
    """
    if name not in names(kind):
        raise UnknownName(kind, name, names(kind))
    return importlib.import_module(f"{FOLDERS[kind]}.{name}")
