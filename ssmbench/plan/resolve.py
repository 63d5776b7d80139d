"""From what a grid names to what a cell's identity needs: weights, tokenizers and texts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ssmbench.grid.catalogue import by_source, catalogue
from ssmbench.models import source
from ssmbench.plan.cells import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.grid.schema import ModelEntry
    from ssmbench.models.description import Description

# The files that make a tokenizer, of all the kinds that transformers reads.
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def resolve_model(entry: ModelEntry, folder: Path) -> Model:
    """Find a grid's model.

    Args:
        entry: as the grid has it.
        folder: where the grid's relative paths start.

    Raises:
        CheckpointError: a folder that is not a model.
        UnknownName: no such zoo model.
    """
    known = by_source().get(entry.path) if entry.path else None
    known = known or catalogue().get(entry.label)
    text = entry.path or (known.source if known else entry.label)
    found = source.resolve(
        text,
        tokenizer=_absolute(folder, entry.tokenizer),
        revision=entry.revision,
        family=entry.family,
        base=folder,
    )
    tokenizer, family = found.tokenizer, found.family
    if known and found.source.startswith("hub:"):
        family = family or known.family
    if known and known.tokenizer and not entry.tokenizer and not _has_tokenizer(found.source):
        tokenizer = known.tokenizer  # the published folders have none of their own
    return Model(
        name=entry.label,
        source=found.source,
        fingerprint=found.fingerprint,
        family=family,
        tokenizer=tokenizer,
        tokenizer_fingerprint=_tokenizer_fingerprint(tokenizer),
    )


def describe(model: Model) -> Description | None:
    """Give a model's architecture; None for a hub model that the catalogue does not know."""
    if not model.source.startswith("hub:"):
        return source.description(model.source)
    known = by_source().get(model.source.removeprefix("hub:"))
    return known.describe() if known else None


# The part of each known text that calibration reads; evaluation reads others.
SPLITS = {"c4": "train", "tinyworld": "calibration", "wikitext": "train"}


class Text(NamedTuple):
    """A text to calibrate or train on, in the words of `cells.Calibration`."""

    data: str
    version: int | None = None
    path: str | None = None
    split: str | None = None


def resolve_text(data: str, folder: Path, splits: Mapping[str, str] = SPLITS) -> Text:
    """Find a text: a known set, or a file or folder.

    Args:
        data: as the grid has it.
        folder: where relative paths start.
        splits: the known sets, with the part of each that is read; by default calibration's.
    """
    if data in splits:
        version = None
        if data == "tinyworld":
            from ssmbench.zoo import tinyworld

            version = tinyworld.VERSION
        return Text(data, version=version, split=splits[data])
    path = (folder / Path(data).expanduser()).resolve()
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    content = _hash_files(path, [f for f in files if f.is_file()])
    return Text(f"sha256:{content}", path=str(path))


def _absolute(folder: Path, text: str | None) -> str | None:
    if text is None or text.startswith("zoo:"):
        return text
    path = folder / Path(text).expanduser()
    return str(path.resolve()) if path.is_dir() else text


def _local(text: str) -> Path | None:
    """Give the folder that a source or tokenizer names; None for a hub id."""
    if text.startswith(("zoo:", "folder:", "hub:")):
        return source.folder_of(text)
    return Path(text) if Path(text).is_dir() else None


def _has_tokenizer(text: str) -> bool:
    folder = _local(text)
    return folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES)


def _tokenizer_fingerprint(tokenizer: str | None) -> str | None:
    """Give the hub id, or a hash over the tokenizer's files."""
    folder = _local(tokenizer) if tokenizer else None
    if folder is None:
        return tokenizer
    return _hash_files(folder, [f for f in map(folder.joinpath, TOKENIZER_FILES) if f.is_file()])


def _hash_files(root: Path, files: list[Path]) -> str:
    """Hash files by their place under `root` and content: 16 hex digits."""
    total = hashlib.sha256()
    for path in files:
        name = "" if path == root else path.relative_to(root).as_posix()
        with path.open("rb") as file:
            total.update(f"{name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:16]
