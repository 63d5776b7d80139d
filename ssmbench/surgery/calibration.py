"""The text that a method may look at: seeded windows of tokens, never from evaluation data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssmbench.errors import DataError
from ssmbench.surgery import texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMED = ("wikitext", "c4", "tinyworld")
# C4 and folders are read until this many characters a wanted token are at hand.
CHARACTERS_PER_TOKEN = 40


def windows(
    data: str,
    *,
    samples: int,
    length: int,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path | None = None,
) -> Tensor:
    """Draw token windows at random places of one text.

    The documents are joined by blanks and tokenised once, as in WANDA's code for WikiText.

    Args:
        data: "wikitext" (WikiText-2, train split), "c4", "tinyworld", or a file or folder of
            .txt or .jsonl ({"text": …}) files.
        samples: how many windows.
        length: tokens of each.
        seed: of the places; for "tinyworld" of the stories as well.
        tokenizer: the model's.
        folder: the folder of local data (`--data`); None reads the hub.

    Returns:
        (samples, length) int64.

    Raises:
        DataError: the text is missing, or shorter than one window.
    """
    text = read_text(data, folder, n_tokens=samples * length, seed=seed)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    last = len(ids) - length
    if last < 0:
        raise DataError(
            f"calibration text {data}: found {len(ids)} tokens; expected at least {length}."
        )
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(last + 1, (samples,), generator=generator)
    stream = torch.tensor(ids, dtype=torch.long)
    return torch.stack([stream[s : s + length] for s in starts.tolist()])


def read_text(data: str, folder: Path | None, *, n_tokens: int, seed: int) -> str:
    """Read a calibration source as one text."""
    characters = n_tokens * CHARACTERS_PER_TOKEN
    match data:
        case "tinyworld":
            from ssmbench.zoo import tinyworld

            return tinyworld.text("calibration", n_tokens=max(2 * n_tokens, 4096), seed=seed)
        case "wikitext" | "c4":
            found = texts.corpus(data, folder, characters=characters, use="calibration")
        case _:
            found = texts.files(Path(data), characters=characters, use="calibration")
    return " ".join(found)
