"""What is trained on: packed windows, their order, and what is held out."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import torch
from finetune_helpers import recipe

from ssmbench.errors import DataError
from ssmbench.finetune import data
from ssmbench.models.source import zoo_folder
from ssmbench.models.tokenizer import load_tokenizer
from ssmbench.surgery import texts
from ssmbench.zoo import tinyworld

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(zoo_folder("mamba2")))


WORDS = tinyworld.vocabulary()
EOS = WORDS.index(tinyworld.EOS)


def told(n: int, start: int = 2) -> str:
    """Give n words, one after another in the vocabulary."""
    return " ".join(WORDS[2 + (start + i) % (len(WORDS) - 2)] for i in range(n))


def jsonl(path: Path, documents: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def test_documents_are_packed_with_the_end_of_text_between(tokenizer, tmp_path):
    documents = [told(5), told(9, 20), " ", told(4, 40)]
    path = jsonl(tmp_path / "own.jsonl", documents)
    wanted = recipe(data="sha256:0", length=4, steps=2, batch=50)
    train, held_out = data.windows(wanted, tokenizer=tokenizer, path=str(path))
    expected = [w for d in documents if d.strip() for w in [*map(WORDS.index, d.split()), EOS]]
    assert len(expected) == 21
    found = torch.cat([train, held_out]).flatten().tolist()
    assert found == expected[:20]
    assert (len(train), len(held_out)) == (4, 1)
    assert train.dtype == torch.int32


def test_the_end_of_a_text_is_held_out_and_never_trained_on(tokenizer, tmp_path):
    path = jsonl(tmp_path / "own.jsonl", [told(50, i) for i in range(40)])
    wanted = recipe(data="sha256:0", length=10, steps=1000, batch=1)
    train, held_out = data.windows(wanted, tokenizer=tokenizer, path=str(path))
    n = 40 * 51 // 10
    assert (len(train), len(held_out)) == (n - n // 20, n // 20)


def test_no_more_is_read_than_is_needed(tokenizer, tmp_path):
    path = jsonl(tmp_path / "own.jsonl", [told(50, i) for i in range(2000)])
    wanted = recipe(data="sha256:0", length=10, steps=20, batch=3)
    train, held_out = data.windows(wanted, tokenizer=tokenizer, path=str(path))
    assert len(train) == 60
    assert len(held_out) == (60 + data.HELD_OUT) // 20
    longer = recipe(data="sha256:0", length=10, steps=200, batch=3)
    more, more_held_out = data.windows(longer, tokenizer=tokenizer, path=str(path))
    assert torch.equal(more[:60], train)
    assert len(more_held_out) == 31


def test_tinyworld_is_told_by_the_split_that_nobody_is_scored_on(tokenizer):
    wanted = recipe(length=64, steps=10, batch=4)
    train, held_out = data.windows(wanted, tokenizer=tokenizer)
    assert len(train) == 40
    stream = torch.cat([train, held_out]).flatten().tolist()
    told = tinyworld.text("fine_tune", (40 + data.HELD_OUT) * 64, seed=0).split()
    assert [WORDS[i] for i in train.flatten().tolist()] == told[: 40 * 64]
    assert WORDS.index(tinyworld.UNK) not in stream
    other = recipe(length=64, steps=10, batch=4, seed=1)
    assert not torch.equal(data.windows(other, tokenizer=tokenizer)[0], train)


def test_wikitext_is_parted_into_articles(tokenizer, tmp_path):
    file = tmp_path / "wikitext-2-raw" / "wiki.train.raw"
    file.parent.mkdir()
    file.write_text(
        f" \n = One = \n \n {told(3)} \n \n = = Part = = \n \n {told(4, 9)} \n"
        f" = Two = \n {told(5)} \n"
    )
    wanted = recipe(data="wikitext", length=4, steps=2, batch=2)
    found = list(data.documents(wanted, None, tmp_path, n_tokens=100))
    assert [a.split() for a in found] == [
        f"= One = {told(3)} = = Part = = {told(4, 9)}".split(),
        f"= Two = {told(5)}".split(),
    ]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("wikitext", "wikitext-2-raw/wiki.train.raw"),
        ("wikitext-103", "wikitext-103-raw/wiki.train.raw"),
        ("minipile", "minipile/train.jsonl"),
        ("c4", "c4/sample.jsonl"),
    ],
)
def test_known_texts_are_read_from_the_folder_of_local_data(tokenizer, tmp_path, name, path):
    wanted = recipe(data=name, length=8, steps=2, batch=2)
    with pytest.raises(DataError, match=rf"fine-tuning on {name}: found no {tmp_path}.*fine_tune"):
        data.windows(wanted, tokenizer=tokenizer, folder=tmp_path)
    file = jsonl(tmp_path / path, [told(100)])
    if file.suffix == ".raw":
        file.write_text(told(100))
    train, _ = data.windows(wanted, tokenizer=tokenizer, folder=tmp_path)
    assert [WORDS[i] for i in train.flatten().tolist()] == told(100).split()[:32]


def test_every_text_that_a_grid_may_name_can_be_read():
    from ssmbench.grid.fine_tune import TEXTS

    assert set(TEXTS) == {*texts.CORPORA, "tinyworld"}


def test_a_text_of_less_than_two_windows_is_refused(tokenizer, tmp_path):
    path = tmp_path / "own.txt"
    path.write_text(told(18))
    wanted = recipe(data="sha256:0", length=10, steps=1, batch=2, warmup=0)
    with pytest.raises(DataError, match=r"own\.txt: found 19 tokens; expected at least two window"):
        data.windows(wanted, tokenizer=tokenizer, path=str(path))
    path.write_text(told(19))
    train, held_out = data.windows(wanted, tokenizer=tokenizer, path=str(path))
    assert (len(train), len(held_out)) == (1, 1)


def test_a_tokenizer_without_an_end_is_refused(tokenizer, tmp_path):
    from copy import deepcopy

    endless = deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(DataError, match="expected one, to part documents"):
        data.windows(recipe(), tokenizer=endless)


def test_a_line_that_is_no_text_is_named(tokenizer, tmp_path):
    path = jsonl(tmp_path / "own.jsonl", [told(5), told(6)])
    with path.open("a") as file:
        file.write('{"txt": "once"}\n')
    with pytest.raises(DataError, match=r"own\.jsonl, line 3: .* found '{\"txt\": \"once\"}'"):
        data.windows(recipe(data="sha256:0"), tokenizer=tokenizer, path=str(path))


@pytest.mark.parametrize(("n", "size"), [(10, 4), (3, 8), (5, 5), (1, 2)])
def test_every_window_comes_once_before_any_comes_again(n, size):
    steps = [data.order(n, size=size, step=i, seed=3) for i in range(2 * n)]
    assert all(len(s) == size for s in steps)
    flat = [i for s in steps for i in s]
    for start in range(0, len(flat) - n + 1, n):
        assert Counter(flat[start : start + n]) == Counter(range(n))
    assert steps == [data.order(n, size=size, step=i, seed=3) for i in range(2 * n)]


def test_rounds_and_seeds_have_orders_of_their_own():
    first, second = (data.order(50, size=50, step=i, seed=0) for i in (0, 1))
    assert first != second
    assert first != data.order(50, size=50, step=0, seed=1)
    assert data.order(50, size=50, step=1, seed=0) != data.order(50, size=50, step=0, seed=1)
    assert first != list(range(50))
