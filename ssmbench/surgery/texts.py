"""Texts that may be looked at before a model is measured, by name or from the user's files.

Only train splits are reachable by name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ssmbench.errors import DataError
from ssmbench.paths import exists

if TYPE_CHECKING:
    from pathlib import Path

Use = Literal["calibration", "fine_tune"]
"""The grid's key that asks for the text; messages speak of it."""


class _Corpus(NamedTuple):
    """A known text: where it lies in the folder of local data and on the hub.

    Attributes:
        local: a file, or a folder of .jsonl or .txt files.
        expected: what should be there, for a message.
        hub: the data set's id, its configuration and its data files, None for all.
        characters: of one row of the hub's on average or less; 0 where all rows are wanted.
    """

    local: str
    expected: str
    hub: tuple[str, str | None, str | None]
    characters: int = 0


_CORPORA = {
    "wikitext": _Corpus(
        "wikitext-2-raw/wiki.train.raw",
        "WikiText-2's train split",
        ("Salesforce/wikitext", "wikitext-2-raw-v1", None),
    ),
    "wikitext-103": _Corpus(
        "wikitext-103-raw/wiki.train.raw",
        "WikiText-103's train split",
        ("Salesforce/wikitext", "wikitext-103-raw-v1", None),
    ),
    "c4": _Corpus(
        "c4",
        ".jsonl files",
        ("allenai/c4", None, "en/c4-train.00000-of-01024.json.gz"),
        500,
    ),
    "minipile": _Corpus(
        "minipile", ".jsonl files of its train split", ("JeanKaddour/minipile", None, None), 1000
    ),
}
CORPORA = tuple(_CORPORA)


def local_path(name: str, folder: Path) -> Path | None:
    """Say where a text lies in a folder of local data; None for one that is not a known corpus."""
    return folder / _CORPORA[name].local if name in _CORPORA else None


def corpus(name: str, folder: Path | None, *, characters: int, use: Use) -> list[str]:
    """Read the beginning of a known text, line by line (WikiText) or document by document.

    Args:
        name: one of `CORPORA`.
        folder: the folder of local data; None reads the hub.
        characters: how many are wanted; somewhat more may come, and of WikiText all do.
        use: what for.

    Raises:
        DataError: it is not where it should be.
    """
    found = _CORPORA[name]
    if folder is None:
        return _hub(name, found, characters, use)
    path = folder / found.local
    if not exists(path):
        raise DataError(
            f"{_called(use)} on {name}: found no {path}; expected {found.expected} there. "
            f"Put it there, or name another text, or a file, as the `data` of `{use}`."
        )
    if path.is_file():
        return path.read_text("utf-8").split("\n")
    return files(path, characters=characters, use=use)


def files(path: Path, *, characters: int, use: Use) -> list[str]:
    """Read .txt and .jsonl files in name order until enough characters are at hand.

    Args:
        path: a file or a folder; a .txt file is one text, a .jsonl file has one in each line's
            field "text".
        characters: how many are wanted; the file that reaches them is read to its end.
        use: what for.

    Raises:
        DataError: there is no such file, or a line that has no text.
    """
    if not exists(path):
        raise DataError(f"{_called(use)} text {path}: found neither such a file nor a known name.")
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    texts: list[str] = []
    for file in found:
        if sum(map(len, texts)) >= characters:
            break
        if file.suffix == ".txt":
            texts.append(file.read_text("utf-8"))
        elif file.suffix == ".jsonl":
            texts += _lines(file)
    if not texts:
        raise DataError(f"{_called(use)} text {path}: found no .txt or .jsonl file in it.")
    return texts


def _lines(path: Path) -> list[str]:
    texts = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                texts.append(str(json.loads(line)["text"]))
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f'{path}, line {number}: expected a JSON object with a field "text"; found '
                    f"{line.strip()[:60]!r}."
                ) from None
    return texts


def _hub(name: str, corpus: _Corpus, characters: int, use: Use) -> list[str]:
    from datasets import load_dataset

    repository, configuration, files = corpus.hub
    options: dict[str, Any] = {"data_files": {"train": files}} if files else {}
    try:
        rows = load_dataset(repository, configuration, split="train", **options)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{_called(use)} on {name}: found it neither locally nor on the hub ({reason}). "
            f"Give a folder of local data with --data, or a file as the `data` of `{use}`."
        ) from error
    if corpus.characters:
        rows = rows.select(range(min(len(rows), characters // corpus.characters + 1)))
    return [row["text"] for row in rows]


def _called(use: Use) -> str:
    return use.replace("fine_tune", "fine-tuning")
