"""Where a tokenizer is found, and what is said when it is not."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ssmbench.errors import CheckpointError
from ssmbench.models.tokenizer import load_tokenizer


@pytest.fixture
def folder(tmp_path):
    inner = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path = tmp_path / "tokenizers" / "letters"
    path.mkdir(parents=True)
    inner.save(str(path / "tokenizer.json"))
    return path


def test_a_folder_is_read(folder):
    assert load_tokenizer(str(folder))("a b")["input_ids"] == [0, 1]


def test_the_data_folder_stands_for_the_hub(folder):
    found = load_tokenizer("owner/letters", data=folder.parents[1])
    assert found("b a")["input_ids"] == [1, 0]


def test_the_zoo_has_its_own():
    assert load_tokenizer("zoo:mamba2")("ball")["input_ids"]


def test_a_folder_without_one_says_how_to_name_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json.*--tokenizer MODEL=FOLDER"):
        load_tokenizer(str(tmp_path))


def test_one_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="tokenizer owner/nothing: cannot be loaded"):
        load_tokenizer("owner/nothing", data=tmp_path)
