"""Calibration: where the text comes from, what is drawn, and what is measured on it."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ssmbench import plugins
from ssmbench.errors import DataError
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest
from ssmbench.models.initialise import initialise
from ssmbench.surgery.calibration import windows
from ssmbench.surgery.projections import projections
from ssmbench.surgery.statistics import Moments, run, walk

WORDS = [f"w{i}" for i in range(50)]
FAMILIES = plugins.names("family")


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


def tiny(family: str) -> Decoder:
    model = Decoder(plugins.load("family", family).tiny())
    initialise(model, seed=0)
    return model.eval().requires_grad_(False)


def drawn_tokens() -> torch.Tensor:
    return torch.randint(0, 61, (5, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_those_of_a_normal_forward_pass(family):
    model, seen, hooks = tiny(family), {}, []
    for p in projections(model, "both", "all"):
        rows = seen.setdefault((p.layer, p.name), [])
        hook = lambda _m, x, rows=rows: rows.append(x[0].clone())  # noqa: E731
        hooks.append(p.module.register_forward_pre_hook(hook))
    for window in drawn_tokens():
        model.hidden(Forest.batch(window[None]))
    for hook in hooks:
        hook.remove()
    found = projections(model, "both", "all")
    blocks = dict(walk(model, drawn_tokens(), found, batch_tokens=32))
    assert {(i, name) for i, norms in blocks.items() for name in norms} == set(seen)
    for (i, name), rows in seen.items():
        norm = blocks[i][name]
        expected = torch.cat(rows).double().square().sum(0).sqrt().float()
        # float32 matrix products of other heights.
        torch.testing.assert_close(norm, expected, rtol=1e-5, atol=1e-6)
        # The published code saw zeros at Mamba-2's out_proj.
        assert bool((norm > 0).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_walk_threads_the_hidden_states_of_a_normal_forward_pass(family):
    def inputs(go) -> list[list[torch.Tensor]]:
        seen = [[] for _ in model.layers]
        hooks = [
            block.register_forward_pre_hook(lambda _m, x, rows=rows: rows.append(x[0]))
            for block, rows in zip(model.layers, seen, strict=True)
        ]
        go()
        for hook in hooks:
            hook.remove()
        return seen

    model = tiny(family)
    found = list(projections(model, "both", "all"))
    walked = inputs(lambda: list(walk(model, drawn_tokens(), found, batch_tokens=32)))
    normal = inputs(lambda: run(model, drawn_tokens(), batch_tokens=32))
    for ours, theirs in zip(walked, normal, strict=True):
        # Once for the norms, once to go on.
        assert len(ours) == 2 * len(theirs) == 6
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs * 2, strict=True))


@pytest.mark.parametrize("batch_tokens", [16, 32, 1000])
def test_moments_are_those_of_all_positions_at_once(batch_tokens):
    model, rows = tiny("mamba2"), []
    out_proj = model.layers[1].mixer.out_proj
    hook = out_proj.register_forward_pre_hook(lambda _m, x: rows.append(x[0].double()))
    with Moments({"it": out_proj}) as moments:
        run(model, drawn_tokens(), batch_tokens=batch_tokens)
    hook.remove()
    x = torch.cat(rows)
    torch.testing.assert_close(moments.means()["it"], x.mean(0))
    torch.testing.assert_close(moments.variances()["it"], x.var(0, unbiased=False))
    run(model, drawn_tokens(), batch_tokens=batch_tokens)
    torch.testing.assert_close(moments.means()["it"], x.mean(0))


def test_moments_of_a_mean_far_from_zero_keep_their_digits():
    layer = torch.nn.Linear(3, 1)
    x = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0)) + 30000
    with Moments({"it": layer}) as moments:
        for part in x:
            layer(part)
    expected = x.flatten(0, 1).double().var(0, unbiased=False)
    # E[x²] − E[x]² would be wrong by 1e-7.
    torch.testing.assert_close(moments.variances()["it"], expected, rtol=1e-11, atol=0)
