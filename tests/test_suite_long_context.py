"""Long contexts: the same snippet after more and more, scored as the model alone would score it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from evaluate_helpers import both, context_of, tiny_mamba2, tiny_tokenizer
from token_helpers import MODELS, build, prompts, reduce
from transformers import AutoTokenizer

from ssmbench.errors import DataError
from ssmbench.grid.read import read_grid
from ssmbench.models.forest import Forest
from ssmbench.models.token_flops import count
from ssmbench.suites import _texts, long_context

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.models.decoder import Decoder

SMALL = {"contexts": (8, 20), "snippet": 5}


class Letters:
    """A tokenizer of one token a character, with what lm-eval asks of one."""

    bos_token_id, eos_token_id = None, 0

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) % 61 for c in text]}

    def decode(self, token: int) -> str:
        return chr(token)


def ids(path: Path) -> list[int]:
    return Letters()(path.read_text())["input_ids"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, n in enumerate((60, 31, 25, 24)):  # the last is one token too short
        text = "".join(chr(97 + (7 * j * j + 3 * j + i) % 26) for j in range(n))
        (folder / f"book{i}.txt").write_text(text)
    return folder


def run(model: Decoder, folder: Path, scratch: Path, *, limit: int | None = None, **params):
    given = long_context.Params(**{"data": str(folder), **SMALL, **params})
    return long_context.run(context_of(model, Letters(), scratch, limit=limit), given)


def nats(result, length: int) -> dict[str, float]:
    task = f"context_{length}"
    return {s["doc_id"]: s["value"] for s in result.samples if s["task"] == task}


def test_a_dense_models_nats_are_those_of_one_plain_pass(folder, tmp_path):
    model = build(MODELS["mamba2"])
    result = run(model, folder, tmp_path)
    for length in (8, 20):
        expected = {}
        for path in sorted(folder.iterdir())[:3]:
            tokens = torch.tensor(ids(path)[20 - length : 25])
            with torch.inference_mode():
                logits = model(tokens[None, :-1])[0, length - 1 :]
            loss = torch.nn.functional.cross_entropy(logits, tokens[length:], reduction="sum")
            expected[path.stem] = float(loss)
        assert nats(result, length) == pytest.approx(expected, rel=1e-5)
        (row,) = (
            m
            for m in result.metrics
            if (m["task"], m["metric"]) == (f"context_{length}", "perplexity")
        )
        assert row["value"] == pytest.approx(math.exp(sum(expected.values()) / 15), rel=1e-5)
        assert (row["n"], row["higher_is_better"]) == (3, False)


@pytest.mark.parametrize("name", ["mamba", "hybrid"])
def test_the_context_is_pruned_and_the_snippet_continues_from_what_is_left(name, folder, tmp_path):
    model = build(MODELS[name])
    dense = run(model, folder, tmp_path)
    reduce(model, 0.8)
    result = run(model, folder, tmp_path)
    for length in (8, 20):
        expected = {}
        for path in sorted(folder.iterdir())[:3]:
            context, snippet = ids(path)[20 - length : 20], torch.tensor(ids(path)[20:25])
            with torch.inference_mode():
                before, state = model.hidden(prompts(context))
                after, _ = model.hidden(Forest.batch(snippet[None, :-1]), state)
                logits = model.logits(torch.cat([before[-1:], after]))
            loss = torch.nn.functional.cross_entropy(logits, snippet, reduction="sum")
            expected[path.stem] = float(loss)
        assert nats(result, length) == pytest.approx(expected, rel=1e-4)
        assert nats(result, length) != pytest.approx(nats(dense, length), rel=1e-3)
    assert dense.layers == []
    tokens = {
        (r["place"], r["layer"]): r["value"] for r in result.layers if r["measure"] == "tokens"
    }
    assert (tokens["context_8", 0], tokens["context_20", 0]) == (8, 20)
    assert tokens["context_20", 5] < 20


def test_an_input_costs_what_its_lengths_cost(folder, tmp_path):
    model = reduce(build(MODELS["mamba"]), 0.8)
    rows = {(m["task"], m["metric"]): m for m in run(model, folder, tmp_path).metrics}
    one = count(model.description, prompt=20, answer=5, drop=model.reducer.drop)
    assert rows["context_20", "flops_all"]["value"] == one.total("all")
    assert rows["context_20", "flops_scored"]["value"] == one.total("scored")
    assert rows["context_20", "prompt_tokens"]["value"] == 20
    assert rows["context_8", "answer_tokens"]["value"] == 5
    dense = count(model.description, prompt=20, answer=5)
    assert one.total("all") < dense.total("all")


def test_the_snippet_is_where_the_longest_context_ends_whatever_the_length(folder, tmp_path):
    context = context_of(build(MODELS["mamba"]), Letters(), tmp_path)
    params = long_context.Params(data=str(folder), **SMALL)
    found = list(long_context.windows(context, params))
    assert [w.name for w in found] == ["book0", "book1", "book2"]
    for window in found:
        whole = ids(folder / f"{window.name}.txt")
        assert (window.context, window.snippet) == (whole[:20], whole[20:25])


def test_more_windows_are_spread_to_the_end_of_a_text(folder, tmp_path):
    context = context_of(build(MODELS["mamba"]), Letters(), tmp_path, limit=1)
    params = long_context.Params(data=str(folder), **SMALL, windows=3)
    found = list(long_context.windows(context, params))
    whole = ids(folder / "book0.txt")
    # 60 tokens: the first ends at 25, the others 35 / 3 further each.
    assert [w.name for w in found] == ["book0.0", "book0.1", "book0.2"]
    assert [w.snippet for w in found] == [whole[20:25], whole[31:36], whole[43:48]]
    assert [w.context for w in found] == [whole[0:20], whole[11:31], whole[23:43]]


def test_a_limit_takes_the_first_texts(folder, tmp_path):
    result = run(build(MODELS["mamba"]), folder, tmp_path, limit=2)
    assert set(nats(result, 8)) == {"book0", "book1"}
    assert {m["limit"] for m in result.metrics} == {2}


def test_texts_that_are_all_too_short_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match="no text has the 105 tokens of context and snippet"):
        run(build(MODELS["mamba"]), folder, tmp_path, contexts=(100,))


def test_what_is_read_is_known_to_the_plan(folder):
    params = long_context.Params(data=str(folder), **SMALL)
    assert long_context.tokens(params, None) == 4 * (8 + 20 + 2 * 5)
    assert long_context.tokens(params, 1) == 38
    assert long_context.files(params, None) == sorted(folder.iterdir())
    before = long_context.provides(params)
    (folder / "book3.txt").write_text("other")
    assert long_context.provides(params) != before
    with pytest.raises(DataError, match=r"'gone': no|'gone': found no|texts 'gone'"):
        long_context.provides(long_context.Params(data="gone"))


def test_a_folder_of_texts_is_found_beside_the_grid(folder, tmp_path):
    (tmp_path / "pg19").mkdir()  # of the data set's own name: not meant
    (tmp_path / "g.yaml").write_text(
        "models: [zoo-mamba-s]\nmethods: [dense]\nsuites:\n"
        "  - {suite: long_context, data: texts}\n  - {suite: redundancy, data: pg19}\n"
    )
    file = read_grid(tmp_path / "g.yaml")
    found = [suite.params_from(file.folder)["data"] for suite in file.grid.suites]
    assert found == [str(folder), "pg19"]


def test_pg19_is_read_from_the_data_folder_in_the_order_of_its_names(tmp_path):
    books = tmp_path / "pg19/test"
    books.mkdir(parents=True)
    for name in ("20.txt", "10.txt", "30.txt"):
        (books / name).write_text("\ufeffonce upon a time", "utf-8")
    found = list(_texts.texts("pg19", tmp_path, n=2, length=5))
    assert found == [("10", "once upon a time"), ("20", "once upon a time")]
    assert _texts.files("pg19", tmp_path) == sorted(books.iterdir())
    with pytest.raises(DataError, match=r"pg19/test: no \.txt file is there.*--data DIR"):
        list(_texts.texts("pg19", tmp_path / "elsewhere", n=2, length=5))


def test_texts_of_the_hub_that_cannot_be_reached_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError, match=r"emozilla/pg19-test could not be read.*--data DIR"):
        next(_texts.texts("pg19", None, n=1, length=5))


def test_generated_texts_differ_and_are_as_long_as_asked():
    found = list(_texts.texts("tinyworld", None, n=3, length=50))
    assert [len(text.text.split(" ")) for text in found] == [50] * 3
    assert len({text.text for text in found}) == 3
    assert list(_texts.texts("tinyworld", None, n=1, length=50)) == found[:1]


def test_the_beginning_of_a_text_is_that_of_its_tokens():
    tokenizer = tiny_tokenizer()
    text = "the cat sat on the mat and the dog ran. " * 200
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert _texts.beginning(tokenizer, text, 50) == whole[:50]
    assert _texts.beginning(tokenizer, text, None) == whole
    assert (
        _texts.beginning(tokenizer, "the cat", 50)
        == whole[: len(tokenizer("the cat")["input_ids"])]
    )


def test_books_of_real_length_are_scored(shared, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(shared / "data/tokenizers/gpt-neox-20b")
    _, model = both(tiny_mamba2(50288), tmp_path / "model")
    params = long_context.Params(data=str(shared / "data/gutenberg"), contexts=(64, 256))
    found = long_context.run(context_of(model, tokenizer, tmp_path, batch_tokens=1024), params)
    assert {(m["task"], m["n"]) for m in found.metrics} == {("context_64", 6), ("context_256", 6)}
    assert {s["weight"] for s in found.samples} == {100.0}
