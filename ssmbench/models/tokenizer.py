"""Loading tokenizers, from a folder, the zoo or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ssmbench.errors import CheckpointError
from ssmbench.models.source import zoo_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(
    name: str, *, revision: str | None = None, data: Path | None = None
) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        name: "zoo:NAME", a folder with tokenizer.json, or a hub id.
        revision: hub revision.
        data: the folder of local data (`--data`); `tokenizers/NAME` in it stands for the hub's
            OWNER/NAME.

    Raises:
        CheckpointError: nothing there can be read as a tokenizer.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = zoo_folder(name.removeprefix("zoo:")) if name.startswith("zoo:") else Path(name)
    if data is not None and not folder.is_dir():
        folder = data / "tokenizers" / folder.name
    local = folder.is_dir()
    if local and not (folder / "tokenizer_config.json").is_file():
        if (folder / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        raise CheckpointError(
            f"{folder}: found no tokenizer.json; expected the model's tokenizer there, "
            "or name one: `tokenizer:` in the grid or --tokenizer MODEL=FOLDER."
        )
    try:
        return AutoTokenizer.from_pretrained(str(folder) if local else name, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"tokenizer {name}: cannot be loaded: {reason}") from error
