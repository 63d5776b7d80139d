"""A model as a folder of its own: weights, config and tokenizer, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmbench.errors import CheckpointError, CommandError
from ssmbench.execute.compress import tokenizer_of
from ssmbench.models import source
from ssmbench.plan.resolve import TOKENIZER_FILES
from ssmbench.store import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.export import Layout

RECORD = "ssmbench.json"


def write(
    model: Decoder,
    out: Path,
    *,
    layout: Layout,
    data: Path | None = None,
    record: Mapping[str, Any] | None = None,
) -> str | None:
    """Write a model with its tokenizer to a new folder, which appears whole or not at all.

    Args:
        model: to write.
        out: the folder; empty or not there yet.
        layout: see `models.export.save`.
        data: the folder of local data, for tokenizers.
        record: how the model was made, for ssmbench.json; None writes none.

    Returns:
        Why the folder has no tokenizer; None where it has one.

    Raises:
        CommandError: the folder holds something, or cannot be written.
        CheckpointError: the layout cannot say this model.
    """
    from ssmbench.models import export as exports

    check_free(out)
    try:
        with atomic.new_folder(out) as folder:
            ours = folder.stat().st_ino
            exports.save(model, folder, layout=layout)
            lacks = _write_tokenizer(model, folder, data)
            if record is not None:
                (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        if out.stat().st_ino != ours:
            raise CommandError(f"{out}: appeared while the model was compressed; it was left.")
    except OSError as problem:
        raise CommandError(f"{out}: cannot be written ({problem.strerror}).") from problem
    return lacks


def check_free(out: Path) -> None:
    """Check that nothing is where a model is to be written.

    Raises:
        CommandError: a file, or a folder that holds something.
    """
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        what = "a folder that is not empty" if out.is_dir() else "a file"
        raise CommandError(f"{out}: found {what}; expected a new folder.")


def _write_tokenizer(model: Decoder, folder: Path, data: Path | None) -> str | None:
    """Put a model's tokenizer into a folder; give the reason where there is none."""
    name = None if model.origin is None else model.origin.tokenizer
    if name is None:
        return "the model has none"
    local = source.zoo_folder(name.removeprefix("zoo:")) if name.startswith("zoo:") else Path(name)
    if not local.is_dir() and data is not None:
        local = data / "tokenizers" / local.name
    if local.is_dir():
        names = (*TOKENIZER_FILES, "chat_template.jinja")
        files = [local / file for file in names if (local / file).is_file()]
        for file in files:
            shutil.copyfile(file, folder / file.name)
        return None if files else f"{local} has none"
    try:
        tokenizer_of(model).save_pretrained(folder)
    except CheckpointError as error:
        return str(error)
    return None
