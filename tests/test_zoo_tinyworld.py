"""TinyWorld tells the truth, tells it again from the same seed, and never twice in two splits."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import pytest

from ssmbench.zoo import tinyworld, tokenizer

if TYPE_CHECKING:
    from pathlib import Path

SENTENCES = {
    "put": r"(\w+) put (\w+) (\w+) in (\w+)",
    "moved": r"\w+ moved (\w+) to (\w+)",
    "gave": r"\w+ gave (\w+) to (\w+)",
    "painted": r"\w+ painted (\w+) (\w+)",
    "where": r"where is (\w+) \? (\w+)",
    "colour": r"what colour is (\w+) \? (\w+)",
    "whose": r"whose is (\w+) \? (\w+)",
    "found": r"later \w+ found (\w+) (\w+) in (\w+)",
    "fetch": r"to get (\w+) , open (\w+)",
    "took": r"then (\w+) took (\w+) (\w+) from (\w+)",
    "wants": r"(?:she|he) , that is (\w+) , wants (\w+) (\w+)",
    "nothing": "|".join(filler.removesuffix(" .") for filler in tinyworld.FILLERS),
}


class Reader:
    """Follows a story from its text alone; knows nothing of the generator's world."""

    def __init__(self) -> None:
        self.person: dict[str, str] = {}
        self.colour: dict[str, str] = {}
        self.place: dict[str, str] = {}

    def owns(self, person: str) -> list[str]:
        return [thing for thing, owner in self.person.items() if owner == person]

    def read(self, sentence: str) -> bool | None:
        """Take in a sentence; say whether it is true, or None if it is news."""
        (kind, found), *rest = [
            (kind, match)
            for kind, pattern in SENTENCES.items()
            if (match := re.fullmatch(pattern, sentence))
        ]
        assert not rest
        parts = found.groups()
        if kind in ("put", "moved", "gave", "painted", "nothing"):
            self._learn(kind, parts)
            return None
        return self._true(kind, parts)

    def _learn(self, kind: str, parts: tuple[str, ...]) -> None:
        if kind == "put":
            person, colour, thing, place = parts
            self.person[thing], self.colour[thing], self.place[thing] = person, colour, place
        elif kind != "nothing":
            thing, value = parts
            table = {"moved": self.place, "gave": self.person, "painted": self.colour}[kind]
            assert table[thing] != value
            table[thing] = value

    def _true(self, kind: str, parts: tuple[str, ...]) -> bool:
        if kind in ("where", "fetch"):
            return self.place[parts[0]] == parts[1]
        if kind == "colour":
            return self.colour[parts[0]] == parts[1]
        if kind == "whose":
            return self.person[parts[0]] == parts[1]
        if kind == "found":
            colour, thing, place = parts
            return (self.colour[thing], self.place[thing]) == (colour, place)
        person, colour, thing, *place = parts
        only = self.owns(person) == [thing] and self.colour[thing] == colour
        return only and place in ([], [self.place[thing]])


def read_all(text: str) -> Reader:
    reader = Reader()
    for sentence in text.split(" . "):
        reader.read(sentence.removesuffix(" ."))
    return reader


@pytest.mark.parametrize("split", ["train", "fine_tune", "calibration", "evaluation"])
def test_every_statement_of_a_story_is_true_when_read_from_its_text(split: str) -> None:
    n_answers = 0
    for story in itertools.islice(tinyworld.stories(split, seed=3), 200):
        reader = Reader()
        for words, answers in story[:-1]:
            assert words[-1] == "."
            told = reader.read(" ".join(words[:-1]))
            assert told is (True if answers else None)
            n_answers += len(answers)
        assert story[-1].words == (tinyworld.EOS,)
    assert n_answers > 200 * 8


def test_the_reader_notices_a_false_answer() -> None:
    reader = read_all("mia put red ball in box . tom moved ball to bag .")
    assert reader.read("where is ball ? bag") is True
    assert reader.read("where is ball ? box") is False


def test_every_kind_of_sentence_is_told() -> None:
    words = tinyworld.text("train", 20_000, seed=0)
    for kind, pattern in SENTENCES.items():
        assert re.search(rf"(?:^| ){pattern}(?: |$)", words), kind
    assert set(words.split()) == set(tinyworld.vocabulary()) - {tinyworld.UNK}


def test_the_same_seed_tells_the_same_text_and_another_seed_another() -> None:
    assert tinyworld.text("evaluation", 500, 1) == tinyworld.text("evaluation", 500, 1)
    assert tinyworld.text("evaluation", 500, 1) != tinyworld.text("evaluation", 500, 2)
    assert (
        tinyworld.text("evaluation", 300, 1)
        == tinyworld.text("evaluation", 500, 1)[: len(tinyworld.text("evaluation", 300, 1))]
    )


def test_text_has_exactly_the_asked_number_of_words() -> None:
    assert len(tinyworld.text("calibration", 777, 0).split(" ")) == 777


def apart() -> dict[str, tuple[int, ...]]:
    """Give the splits that must share nothing: all but `fine_tune`, which retells `train`."""
    return {split: part for split, part in tinyworld.SPLITS.items() if split != "fine_tune"}


def test_the_splits_share_no_bucket() -> None:
    buckets = [b for part in apart().values() for b in part]
    assert sorted(buckets) == list(range(tinyworld.N_BUCKETS))


def test_fine_tuning_tells_new_stories_of_the_facts_that_training_told() -> None:
    assert tinyworld.SPLITS["fine_tune"] == tinyworld.SPLITS["train"]
    assert tinyworld.text("fine_tune", 300, 0) != tinyworld.text("train", 300, 0)


def test_no_opening_is_told_in_two_splits() -> None:
    # One fact only, so that chance alone would repeat some openings.
    shape = tinyworld.Shape(facts=(1, 1), questions=(0, 0), changes=(0, 0), fillers=(0, 0))
    told = {
        split: {
            s[0].words for s in itertools.islice(tinyworld.stories(split, seed=0, shape=shape), 800)
        }
        for split in apart()
    }
    for one, two in itertools.combinations(told, 2):
        assert not told[one] & told[two]


def test_the_tokenizer_gives_each_word_its_place_in_the_vocabulary(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    text = tinyworld.text("evaluation", 3000, 0)
    ids = loaded(text)["input_ids"]
    vocabulary = tinyworld.vocabulary()
    assert [vocabulary[i] for i in ids] == text.split()
    assert loaded.decode(ids) == text
    assert loaded.unk_token_id not in ids
    assert loaded.eos_token_id == vocabulary.index(tinyworld.EOS)
    assert loaded("zebra")["input_ids"] == [loaded.unk_token_id]
