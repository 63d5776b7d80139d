"""The text that is trained on: packed windows of tokens, their order, and some held out."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssmbench.errors import DataError
from ssmbench.surgery import texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedTokenizerBase

    from ssmbench.grid.fine_tune import Recipe

HELD_OUT = 32
"""Windows held out at most; and at most one in twenty."""

# Texts are read until this many characters a wanted token are at hand.
_CHARACTERS_PER_TOKEN = 8
_HEADING = re.compile(r" ?= [^=].* = ?")
_AT_ONCE = 512


def windows(
    recipe: Recipe,
    *,
    tokenizer: PreTrainedTokenizerBase,
    path: str | None = None,
    folder: Path | None = None,
) -> tuple[Tensor, Tensor]:
    """Pack a text into windows: its documents one after another, the end-of-text token between.

    The text is read from its beginning until every step has windows of its own, or to its end.
    The last windows of what was read are held out.

    Args:
        recipe: `data`, `length`, and through `steps` and `batch` how many windows are wanted.
        tokenizer: the model's.
        path: the file or folder, where `data` is the user's own.
        folder: the folder of local data (`--data`); None reads the hub.

    Returns:
        Those to train on, (n, length) int32, n at most steps · batch, and those held out,
        (m, length) int32, with m = min(32, max(1, (n + m) // 20)).

    Raises:
        DataError: the text is missing, or shorter than two windows; a tokenizer without an
            end-of-text token.
    """
    name = path or recipe.data
    wanted = recipe.steps * recipe.batch
    n_tokens = (wanted + HELD_OUT) * recipe.length
    stream = _stream(documents(recipe, path, folder, n_tokens=n_tokens), tokenizer, n_tokens)
    n = len(stream) // recipe.length
    if n < 2:
        raise DataError(
            f"fine-tuning on {name}: found {len(stream)} tokens; expected at least two windows of "
            f"{recipe.length}, one to train on and one held out. Choose a longer text or a smaller "
            "`length`."
        )
    packed = stream[: n * recipe.length].view(n, recipe.length)
    m = min(HELD_OUT, max(1, n // 20))
    return packed[: min(n - m, wanted)].clone(), packed[n - m :].clone()


def documents(
    recipe: Recipe, path: str | None, folder: Path | None, *, n_tokens: int
) -> Iterable[str]:
    """Read a text's documents, enough for `n_tokens` tokens if it has as many."""
    if recipe.data == "tinyworld":
        from ssmbench.zoo import tinyworld

        # A word is a token for the zoo's tokenizer, and more for others.
        told = tinyworld.text("fine_tune", n_tokens=n_tokens, seed=recipe.seed)
        return (story.strip() for story in told.split(tinyworld.EOS))
    characters = n_tokens * _CHARACTERS_PER_TOKEN
    if path is not None:
        return texts.files(Path(path), characters=characters, use="fine_tune")
    found = texts.corpus(recipe.data, folder, characters=characters, use="fine_tune")
    return _articles(found) if recipe.data.startswith("wikitext") else found


def order(n: int, *, size: int, step: int, seed: int) -> list[int]:
    """Say which windows a step trains on.

    Every window comes once before any comes again; each such round has an order of its own.

    Args:
        n: windows.
        size: of a batch.
        step: from 0.
        seed: of all orders.

    Returns:
        `size` indices below n, a pure function of the arguments.
    """
    places = range(step * size, (step + 1) * size)
    return [_permutation(n, seed, place // n)[place % n] for place in places]


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    digest = hashlib.sha256(f"order/{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return tuple(torch.randperm(n, generator=generator).tolist())


def _articles(lines: Iterable[str]) -> Iterator[str]:
    """Join WikiText's lines to articles; one begins at a heading of the first level."""
    article: list[str] = []
    for line in lines:
        stripped = line.rstrip("\n")
        if _HEADING.fullmatch(stripped) and any(part.strip() for part in article):
            yield "\n".join(article)
            article = []
        article.append(stripped)
    yield "\n".join(article)


def _stream(found: Iterable[str], tokenizer: PreTrainedTokenizerBase, n_tokens: int) -> Tensor:
    """Give the documents' tokens one after another, the end-of-text token after each: int32."""
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError(
            "fine-tuning: found a tokenizer without an end-of-text token; expected one, to part "
            "documents. Set `eos_token` in its tokenizer_config.json."
        )
    parts: list[Tensor] = []
    n = 0
    for group in _groups(found):
        for ids in tokenizer(group, add_special_tokens=False, verbose=False)["input_ids"]:
            parts.append(torch.tensor([*ids, end], dtype=torch.int32))
            n += len(ids) + 1
        if n >= n_tokens:
            break
    return torch.cat(parts)[:n_tokens] if parts else torch.empty(0, dtype=torch.int32)


def _groups(found: Iterable[str]) -> Iterator[list[str]]:
    """Give documents that hold something, some at a time: tokenizers are faster so."""
    group: list[str] = []
    for document in found:
        if document.strip():
            group.append(document)
        if len(group) == _AT_ONCE:
            yield group
            group = []
    if group:
        yield group
