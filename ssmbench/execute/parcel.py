"""What travels with a grid to a cluster: the files and folders that it names beside itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmbench.errors import GridError
from ssmbench.grid.schema import TEXTS
from ssmbench.grid.yaml_source import read_document

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES_A_FILE = {"path", "tokenizer", "data"}
_MAX_BYTES = 100_000_000


def parts(grid: Path) -> list[Path]:
    """List the files and folders that a grid names by relative paths, relative to its folder.

    Raises:
        GridError: the grid is not YAML, or one of them lies outside the grid's folder.
    """
    document, problems = read_document(grid)
    if problems:
        raise GridError(document.lines(problems))
    root = grid.absolute().parent.resolve()
    found = set()
    for text in _named(document.value):
        path = Path(text)
        if not text or len(text) > 1024 or path.is_absolute() or not exists(root / path):
            continue
        inside = (root / path).resolve()
        if not inside.is_relative_to(root) or inside == root:
            raise GridError(
                [
                    f"{grid}: '{text}' is not below the grid's own folder; expected it there, to"
                    " be sent along, or an absolute path that every machine of the cluster sees."
                ]
            )
        found.add(path)
    return sorted(found)


def exists(path: Path) -> bool:
    """Tell whether there is such a file or folder; text that can be no path is none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _named(value: Any) -> Iterator[str]:
    """Give what stands where a grid may name a file or folder; a text's name is none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _NAMES_A_FILE and isinstance(inner, str) and inner not in TEXTS:
                yield inner
            yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)


def pack(grid: Path, found: list[Path], folder: Path) -> None:
    """Copy the grid and its parts to a folder of their own.

    Raises:
        GridError: they are too large to travel with a job.
    """
    root = grid.absolute().parent
    sizes = {path: _size(root / path) for path in found}
    if sum(sizes.values()) > _MAX_BYTES:
        largest = max(sizes, key=lambda path: sizes[path])
        raise GridError(
            [
                f"{grid}: '{largest}' has {sizes[largest] / 1e6:.0f} MB; at most"
                f" {_MAX_BYTES / 1e6:.0f} MB in all are sent along. Put it into a folder that"
                " every machine of the cluster sees, and name it by its absolute path."
            ]
        )
    for path in found:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (root / path).is_dir():
            shutil.copytree(root / path, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(root / path, target)
    shutil.copyfile(grid, folder / grid.name)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)
