"""Long texts by name or folder: what is read, where from, and what stands for its content."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.errors import DataError
from ssmbench.suites._overlay import HOW_TO_BRING, check_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

DATA = (
    "pg19 (the test split's books), wikitext (WikiText-2's test pages), tinyworld (generated),"
    " a folder of .txt files, or one such file."
)
PG19_HUB = "emozilla/pg19-test"
"""DeepMind's own entry on the hub is a script, which `datasets` no longer runs."""

PG19_FOLDER = "pg19/test"
WIKITEXT_FILE = "wikitext-2-raw/test.pages.jsonl"
KNOWN = {"pg19": 100, "wikitext": 62}
"""Documents of the texts that have a name."""

# A beginning is tokenized that has this many characters for each token wanted.
CHARACTERS_PER_TOKEN = 12


class Text(NamedTuple):
    """One document."""

    name: str
    text: str


def provides(data: str) -> dict[str, Any]:
    """Give what else makes the numbers: the language's version, or the files' content.

    Raises:
        DataError: there is no such text.
    """
    if data in KNOWN:
        return {}
    if data == "tinyworld":
        from ssmbench.zoo import tinyworld

        return {"tinyworld": tinyworld.VERSION}
    digest = hashlib.sha256()
    for path in own_files(data):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return {"sha256": digest.hexdigest()}


def files(data: str, folder: Path | None) -> list[Path]:
    """Give the local files that are scored; none where there are none."""
    if data == "wikitext":
        return [] if folder is None else [folder / WIKITEXT_FILE]
    if data == "pg19":
        return [] if folder is None else sorted((folder / PG19_FOLDER).glob("*.txt"))
    return [] if data == "tinyworld" else _found(data)


def count(data: str, n: int, limit: int | None) -> int:
    """Say how many documents there will be, at most."""
    there = n
    if data in KNOWN:
        there = KNOWN[data]
    elif data != "tinyworld":
        there = len(_found(data))
    return min(n, there, limit or n)


def texts(data: str, folder: Path | None, *, n: int, length: int) -> Iterator[Text]:
    """Give up to `n` documents, in the order of their names or of the data set.

    Args:
        data: see `DATA`.
        folder: the folder of local data; None for the hub.
        n: documents.
        length: tokens that will be read of each: a generated one has as many.

    Raises:
        DataError: there is no such text; the message says how to bring it.
    """
    if data == "tinyworld":
        from ssmbench.zoo import tinyworld

        made = (Text(f"story-{i}", tinyworld.text("evaluation", length, i)) for i in range(n))
        yield from made
        return
    if data == "wikitext":
        yield from itertools.islice(_pages(folder), n)
        return
    if data == "pg19" and folder is None:
        rows = _hub(PG19_HUB, "test")
        yield from (Text(str(i), row["text"]) for i, row in zip(range(n), rows, strict=False))
        return
    paths = files(data, folder) if data == "pg19" else own_files(data)
    if not paths:
        raise DataError(f"{folder}/{PG19_FOLDER}: no .txt file is there. {HOW_TO_BRING}")
    for path in paths[:n]:
        yield Text(path.stem, path.read_text("utf-8-sig"))


def own_files(data: str) -> list[Path]:
    """Give the .txt files of the user's folder, sorted by name, or the user's file.

    Raises:
        DataError: there is none.
    """
    found = _found(data)
    if not found:
        raise DataError(
            f"texts '{data}': neither a folder of .txt files nor known; expected {DATA}"
        )
    return found


def _found(data: str) -> list[Path]:
    path = Path(data)
    return [path] if path.is_file() else sorted(path.glob("*.txt"))


def beginning(tokenizer: PreTrainedTokenizerBase, text: str, length: int | None) -> list[int]:
    """Give a text's first `length` tokens, or all that it has; None for all.

    No token is added. Of a long text only the beginning is tokenized, with room to spare.
    """
    enough = None if length is None else (length + 16) * CHARACTERS_PER_TOKEN
    for end in (enough, None):
        ids = tokenizer(text[:end], add_special_tokens=False, verbose=False)["input_ids"]
        if length is not None and len(ids) >= length + 16:
            break
    return list(ids[:length])


def _pages(folder: Path | None) -> Iterator[Text]:
    if folder is None:
        rows = _hub("EleutherAI/wikitext_document_level", "test", "wikitext-2-raw-v1")
        yield from (Text(str(i), row["page"]) for i, row in enumerate(rows))
        return
    path = check_file(folder, WIKITEXT_FILE, ("page",))
    with path.open(encoding="utf-8") as lines:
        yield from (Text(str(i), json.loads(line)["page"]) for i, line in enumerate(lines))


def _hub(name: str, split: str, part: str | None = None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, part, split=split)
    except (OSError, ValueError) as why:
        raise DataError(
            f"texts: {name} could not be read ({type(why).__name__}: {why}). {HOW_TO_BRING}"
        ) from why
