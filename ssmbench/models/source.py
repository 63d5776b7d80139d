"""Finding a model: a zoo name, a folder or a hub id; its family, description and fingerprint.

Reads JSON and bytes only, so that a grid can be planned without torch.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench import plugins
from ssmbench.errors import CheckpointError, UnknownName
from ssmbench.models import layout
from ssmbench.paths import exists, is_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ssmbench.models.description import Description

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
CONFIGS = ("config.json", "mamba_config.json")


class Source(NamedTuple):
    """Where a model is and what it is.

    `source` is "zoo:NAME", "folder:PATH" or "hub:ID"; `fingerprint` changes when the weights do.
    """

    source: str
    fingerprint: str
    family: str | None
    tokenizer: str | None


def zoo_folder(name: str) -> Path:
    """Give the package's folder of a zoo model.

    Raises:
        UnknownName: the zoo has no such model.
    """
    root = Path(str(importlib.resources.files("ssmbench.zoo"))) / "checkpoints"
    known = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if name not in known:
        raise UnknownName("zoo model", name, known)
    return root / name


def folder_of(source: str) -> Path | None:
    """Give the local folder that a source names; None for the hub."""
    kind, _, name = source.partition(":")
    if kind == "zoo":
        return zoo_folder(name)
    return Path(name) if kind == "folder" else None


def resolve(
    text: str,
    *,
    tokenizer: str | None = None,
    revision: str | None = None,
    family: str | None = None,
    base: Path | None = None,
) -> Source:
    """Find the model that a user named.

    Args:
        text: "zoo:NAME", a folder (relative to `base`), or a hub id such as "org/name".
        tokenizer: a folder or hub id; None where the model folder has its own.
        revision: hub revision; "main" where None.
        family: what the folder must be; None to recognise it.
        base: the folder that relative paths start from; the working folder where None.

    Raises:
        CheckpointError: a folder that is not a model, or of another family than `family`.
        UnknownName: no such zoo model.
    """
    if text.startswith("zoo:"):
        folder = zoo_folder(text.removeprefix("zoo:"))
        return Source(text, fingerprint(folder), recognise(folder), tokenizer or text)
    folder = (base or Path()) / Path(text).expanduser()
    if not exists(folder) and _is_hub_id(text):
        return Source(f"hub:{text}", f"{text}@{revision or 'main'}", family, tokenizer or text)
    folder = folder.resolve()
    found = recognise(folder)
    if family is not None and family != found:
        raise CheckpointError(f"{folder}: found a {found} model; the grid says {family}.")
    if tokenizer is not None and exists((base or Path()) / tokenizer):
        tokenizer = str(((base or Path()) / tokenizer).resolve())
    return Source(f"folder:{folder}", fingerprint(folder), found, tokenizer or str(folder))


def _is_hub_id(text: str) -> bool:
    parts = text.split("/")
    return len(parts) == 2 and all(parts) and not text.startswith((".", "~"))


def json_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the configuration files of a model folder: name → content."""
    found = {}
    for name in CONFIGS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text("utf-8"))
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON: {error}.") from None
        if not isinstance(content, dict):
            raise CheckpointError(f"{path}: found {type(content).__name__}; expected an object.")
        found[name] = content
    return found


def recognise(folder: Path) -> str:
    """Name the family of a model folder from its configuration files.

    Raises:
        CheckpointError: the folder is missing, or no family or several claim it; the message
            lists what was looked for.
    """
    if not is_folder(folder):
        raise CheckpointError(f"{folder}: found no folder; expected a model folder or a hub id.")
    files = json_files(folder)
    families = plugins.names("family")
    if layout.is_ours(files):
        return _own_family(layout.describe(files, str(folder)).family, folder, families)
    claims = [f for f in families if plugins.load("family", f).recognises(files)]
    if len(claims) == 1:
        return claims[0]
    looked = "\n".join(f"  {f}: {plugins.load('family', f).LOOKS_FOR}" for f in families)
    found = "several families claim it: " + ", ".join(claims) if claims else _what(folder, files)
    raise CheckpointError(f"{folder}: {found}. Looked for:\n{looked}")


def _own_family(name: str, folder: Path, families: Sequence[str]) -> str:
    if name not in families:
        raise CheckpointError(
            f"{folder}/config.json: found a model of the family {name!r}; this version of ssmbench "
            f"has {', '.join(families)}."
        )
    return name


def _what(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str:
    if not files:
        names = sorted(p.name for p in folder.iterdir())[:8]
        return f"found no config.json (it holds {', '.join(names) or 'nothing'})"
    kind = files.get("config.json", {}).get("model_type")
    return f"no family knows this config.json (model_type {kind!r})"


def describe(folder: Path) -> Description:
    """Read a model folder's description.

    Raises:
        CheckpointError: the folder is not a model of a known family.
    """
    family = plugins.load("family", recognise(folder))
    files = json_files(folder)
    describes = layout if layout.is_ours(files) else family
    result: Description = describes.describe(files, str(folder))
    return result


def description(source: str) -> Description | None:
    """Give the description of a zoo or folder source; None for the hub, which is not asked."""
    folder = folder_of(source)
    return None if folder is None else describe(folder)


def fingerprint(folder: Path) -> str:
    """Hash a model folder's configuration and weight files: 16 hex digits of SHA-256.

    The hash of a file is remembered beside its size and time, since weights are large.
    """
    files = [p for p in sorted(folder.iterdir()) if _counts(p.name)] if folder.is_dir() else []
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.name}:{_file_hash(path)}\n".encode())
    return total.hexdigest()[:16]


def _counts(name: str) -> bool:
    return name in CONFIGS or name.endswith((".safetensors", ".bin", ".index.json"))


def _file_hash(path: Path) -> str:
    """Hash one file; files over 16 MB are looked up in the user's cache first."""
    stat = path.stat()
    if stat.st_size < 1 << 24:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ssmbench" / "hashes"
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    entry = cache / hashlib.sha256(key.encode()).hexdigest()
    if entry.is_file() and len(known := entry.read_text()) == 64:
        return known
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        part = entry.with_suffix(f".{os.getpid()}")
        part.write_text(value)
        part.replace(entry)
    except OSError:
        pass  # A read-only home only means that the file is hashed again.
    return value
