"""The text that a method may look at: seeded windows of tokens, never from evaluation data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssmbench.errors import DataError

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
    match data:
        case "tinyworld":
            from ssmbench.zoo import tinyworld

            return tinyworld.text("calibration", n_tokens=max(2 * n_tokens, 4096), seed=seed)
        case "wikitext":
            return " ".join(_wikitext(folder))
        case "c4":
            return " ".join(_c4(folder, n_tokens * CHARACTERS_PER_TOKEN))
    return " ".join(_files(Path(data), n_tokens * CHARACTERS_PER_TOKEN))


def _wikitext(folder: Path | None) -> list[str]:
    if folder is None:
        from datasets import load_dataset

        try:
            rows = load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split="train")
        except (OSError, ValueError) as error:
            raise _unreachable("wikitext", error) from error
        return [row["text"] for row in rows]
    path = folder / "wikitext-2-raw" / "wiki.train.raw"
    if not path.is_file():
        raise DataError(
            f"calibration on wikitext: found no {path}; expected WikiText-2's train split there. "
            "Put it there, or choose another text: `calibration: {data: c4}` or a file."
        )
    return path.read_text("utf-8").split("\n")


def _c4(folder: Path | None, characters: int) -> list[str]:
    if folder is not None:
        if not (folder / "c4").is_dir():
            raise DataError(
                f"calibration on c4: found no {folder / 'c4'}; expected .jsonl files there."
            )
        return _files(folder / "c4", characters)
    from datasets import load_dataset

    shard = "en/c4-train.00000-of-01024.json.gz"
    try:
        rows = load_dataset("allenai/c4", data_files={"train": shard}, split="train")
    except (OSError, ValueError) as error:
        raise _unreachable("c4", error) from error
    return [row["text"] for row in rows.select(range(min(len(rows), characters // 500 + 1)))]


def _unreachable(name: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"calibration on {name}: found it neither locally nor on the hub ({reason}). "
        "Give a folder of local data with --data, or `calibration: {data: FILE}`."
    )


def _files(path: Path, characters: int) -> list[str]:
    """Read .txt and .jsonl files in name order until enough characters are at hand."""
    if not path.exists():
        raise DataError(f"calibration text {path}: found neither such a file nor a known name.")
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    texts: list[str] = []
    for file in files:
        if sum(map(len, texts)) >= characters:
            break
        if file.suffix == ".txt":
            texts.append(file.read_text("utf-8"))
        elif file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                texts += [json.loads(line)["text"] for line in lines]
    if not texts:
        raise DataError(f"calibration text {path}: found no .txt or .jsonl file in it.")
    return texts
