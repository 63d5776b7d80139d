"""Calibration windows: where the text comes from, what is drawn, what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ssmbench.errors import DataError
from ssmbench.surgery.calibration import windows

WORDS = [f"w{i}" for i in range(50)]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {w: i for i, w in enumerate([*WORDS, "?"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(WORDS))
    return path


def test_windows_are_stretches_of_the_text(text, tokenizer):
    drawn = windows(str(text), samples=6, length=9, seed=0, tokenizer=tokenizer)
    assert drawn.shape == (6, 9)
    assert drawn.dtype == torch.int64
    for window in drawn.tolist():
        assert window == list(range(window[0], window[0] + 9))


def test_the_seed_decides_which(text, tokenizer):
    def draw(seed):
        return windows(str(text), samples=6, length=9, seed=seed, tokenizer=tokenizer).tolist()

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_window_may_be_the_whole_text(text, tokenizer):
    assert windows(str(text), samples=1, length=50, seed=0, tokenizer=tokenizer)[0, -1] == 49


def test_a_text_that_is_too_short_is_refused(text, tokenizer):
    with pytest.raises(DataError, match="found 50 tokens; expected at least 51"):
        windows(str(text), samples=1, length=51, seed=0, tokenizer=tokenizer)


def test_jsonl_and_folders_are_read_in_name_order(tmp_path, tokenizer):
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "w3 w4"}) + "\n")
    (tmp_path / "a.txt").write_text("w1 w2")
    (tmp_path / "c.bin").write_text("w9")
    drawn = windows(str(tmp_path), samples=1, length=4, seed=0, tokenizer=tokenizer)
    assert drawn.tolist() == [[1, 2, 3, 4]]


def test_local_c4_is_read_from_the_data_folder(tmp_path, tokenizer):
    (tmp_path / "c4").mkdir()
    (tmp_path / "c4" / "sample.jsonl").write_text(json.dumps({"text": "w5 w6 w7"}))
    drawn = windows("c4", samples=1, length=3, seed=0, tokenizer=tokenizer, folder=tmp_path)
    assert drawn.tolist() == [[5, 6, 7]]


def test_local_wikitext_is_its_train_split(tmp_path, tokenizer):
    (tmp_path / "wikitext-2-raw").mkdir()
    (tmp_path / "wikitext-2-raw" / "wiki.test.raw").write_text("w1 w2 w3")
    with pytest.raises(DataError, match=r"wiki\.train\.raw; expected WikiText-2's train split"):
        windows("wikitext", samples=1, length=3, seed=0, tokenizer=tokenizer, folder=tmp_path)
    (tmp_path / "wikitext-2-raw" / "wiki.train.raw").write_text("w4\n\nw5 w6")
    drawn = windows("wikitext", samples=1, length=3, seed=0, tokenizer=tokenizer, folder=tmp_path)
    assert drawn.tolist() == [[4, 5, 6]]


@pytest.mark.parametrize("data", ["nowhere", "c4"])
def test_a_missing_text_is_named(data, tmp_path, tokenizer):
    with pytest.raises(DataError, match=data):
        windows(data, samples=1, length=3, seed=0, tokenizer=tokenizer, folder=tmp_path)
