"""Scoring with token dropping: what the prompt is, who shares it, what the suites give."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from evaluate_helpers import VOCABULARY, context_of, tiny_tokenizer, write_data
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluate_lm import awkward_requests, request, scores_of
from test_evaluate_suites import LATENCY_FIELDS, METRIC_FIELDS
from token_helpers import MODELS, build, prompts, reduce

from ssmbench.errors import MethodError
from ssmbench.models.forest import Forest
from ssmbench.store.columns import TABLES
from ssmbench.suites import _latency_work, latency, lm_eval, perplexity, wikitext, zero_shot
from ssmbench.suites._lm import DecoderLM
from ssmbench.suites._tree import alone, make_row, plant, whole_context

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

    from ssmbench.models.decoder import Decoder

CLOSE = {"rtol": 0, "atol": 2e-4}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


def reduced(name: str = "mamba", ratio: float = 0.7, **params: Any) -> Decoder:
    return reduce(build(replace(MODELS[name], vocab_size=VOCABULARY)), ratio, **params)


@pytest.fixture(scope="module")
def model() -> Decoder:
    return reduced()


def literal(model: Decoder, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Score one request by prefill and single steps, with no tree and no batch."""
    hidden, state = model.hidden(prompts(context))
    nats, greedy = 0.0, True
    for i, token in enumerate(continuation):
        logits = model.logits(hidden[-1]).log_softmax(-1)
        nats, greedy = nats + float(logits[token]), greedy and int(logits.argmax()) == token
        if i + 1 < len(continuation):
            hidden, state = model.hidden(Forest.ragged([[token]]), state)
    return nats, greedy


@pytest.mark.parametrize("name", ["mamba", "mamba2", "hybrid"])
@pytest.mark.parametrize("longest", [20, 2048])
def test_scores_are_those_of_each_prompt_and_its_answer_alone(
    name: str, longest: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = reduced(name)
    lm = DecoderLM(model, tokenizer, batch_tokens=200, max_length=longest)
    requests = awkward_requests(longest=60)
    nats, greedy = scores_of(lm, requests)
    expected = []
    for each in requests:
        context, continuation = each.args
        pair = lm._encode_pair(context, continuation) if context else (
            [lm.prefix_token_id], lm.tok_encode(continuation)
        )  # fmt: skip
        room = longest + 1 - len(pair[1])
        expected.append(literal(model, pair[0][-room:], pair[1]))
    torch.testing.assert_close(nats, torch.tensor([n for n, _ in expected]), **CLOSE)
    assert greedy == [g for _, g in expected]
    model.reducer = None
    dense, _ = scores_of(DecoderLM(model, tokenizer, max_length=longest), requests)
    assert (dense - nats).abs().max() > 0.1


@pytest.mark.parametrize("criterion", ["influence", "random", "delete"])
@pytest.mark.parametrize(("batch_tokens", "share"), [(1, True), (37, True), (90, False)])
def test_neither_batches_nor_sharing_change_a_score(
    criterion: str, batch_tokens: int, share: bool, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = reduced(criterion=criterion)
    requests = awkward_requests(longest=60)
    expected, expected_greedy = scores_of(DecoderLM(model, tokenizer), requests)
    lm = DecoderLM(model, tokenizer, batch_tokens=batch_tokens, share=share)
    nats, greedy = scores_of(lm, requests)
    torch.testing.assert_close(nats, expected, **CLOSE)
    assert greedy == expected_greedy


def test_prompts_are_whole_contexts_and_answers_come_after_them(
    model: Decoder, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = awkward_requests(longest=60)
    forests: list[Forest] = []
    hidden = model.hidden
    monkeypatch.setattr(
        model, "hidden", lambda f, *a, **k: (forests.append(f), hidden(f, *a, **k))[1]
    )
    lm = DecoderLM(model, tokenizer, batch_tokens=200)
    scores_of(lm, requests)
    pairs = [lm._encode_pair(*r.args) if r.args[0] else
             ([lm.prefix_token_id], lm.tok_encode(r.args[1])) for r in requests]  # fmt: skip
    wanted = {tuple(c): {tuple(k[:-1]) for d, k in pairs if d == c} - {()} for c, _ in pairs}
    seen: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    n_prompts = 0
    for forest in forests:
        assert forest.prompted
        first, *rest = forest.stages
        rows = [tuple(r.tolist()) for r in forest.tokens[: first.n_tokens].split(first.lengths)]
        n_prompts += len(rows)
        for row in rows:
            seen.setdefault(row, set())
        for stage in rest:
            answers = forest.tokens[first.n_tokens :].split(stage.lengths)
            for answer, parent in zip(answers, stage.parents.tolist(), strict=True):
                seen[rows[parent]].add(tuple(answer.tolist()))
    assert seen == wanted
    assert n_prompts < len(requests)


def test_equal_contexts_share_a_prompt_and_others_nothing() -> None:
    stem = list(range(30))
    same = [make_row(i, stem, [50 + i, 60, 61], 99) for i in range(3)]
    longer = make_row(3, [*stem, 40], [50, 60], 99)
    trees = plant([*same, longer], fork_point=whole_context, budget=999)
    assert sorted((t.fork, len(t.rows)) for t in trees) == [(30, 3), (31, 1)]
    assert {whole_context(a, b) for a, b in pairwise([*same, longer])} == {30, 0}
    assert [t.fork for t in alone(same, fork_point=whole_context)] == [30] * 3


def test_the_same_text_cut_in_two_places_is_two_prompts(
    model: Decoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    requests = [request("the cat", " sat on the mat"), request("the cat sat on", " the mat")]
    lm = DecoderLM(model, tokenizer)
    nats, _ = scores_of(lm, requests)
    expected = [literal(model, *lm._encode_pair(*r.args))[0] for r in requests]
    torch.testing.assert_close(nats, torch.tensor(expected), **CLOSE)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_requests_score_as_alone(data: st.DataObject) -> None:
    model, tokenizer = reduced(), tiny_tokenizer()
    token = st.integers(1, VOCABULARY - 1)
    contexts = data.draw(st.lists(st.lists(token, min_size=1, max_size=30), min_size=1, max_size=3))
    pairs = [
        (context, data.draw(st.lists(token, min_size=1, max_size=5)))
        for context in contexts
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    lm = DecoderLM(model, tokenizer, batch_tokens=data.draw(st.sampled_from([1, 40, 500])))
    found = lm._loglikelihood_tokens([(None, c, k) for c, k in pairs])
    expected = [literal(model, c, k)[0] for c, k in pairs]
    torch.testing.assert_close(torch.tensor([n for n, _ in found]), torch.tensor(expected), **CLOSE)


def test_a_chunked_prefill_scores_the_same_in_any_batch(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = reduced("mamba2", chunk=8)
    requests = awkward_requests(longest=60)
    nats, _ = scores_of(DecoderLM(model, tokenizer, batch_tokens=300), requests)
    expected, _ = scores_of(DecoderLM(model, tokenizer, share=False, batch_tokens=1), requests)
    torch.testing.assert_close(nats, expected, **CLOSE)
    whole, _ = scores_of(DecoderLM(reduced("mamba2"), tokenizer), requests)
    assert (whole - nats).abs().max() > 0.1


def test_a_whole_text_has_no_prompt_to_score(
    model: Decoder, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(MethodError, match="t: token pruning acts on prompts"):
        DecoderLM(model, tokenizer).loglikelihood_rolling([request("the cat", "")])


def layers_of(name: str) -> set[str]:
    return {c.name for c in TABLES[name]} - {
        "cell_id", "suite_id", "suite", "backend", "compute_dtype"
    }  # fmt: skip


def test_suites_say_what_each_layer_kept(
    model: Decoder, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    context = context_of(model, tokenizer, tmp_path, data=write_data(tmp_path / "data"))
    result = zero_shot.run(context, zero_shot.Params(tasks=("piqa",)))
    assert result.metrics[0]["value"] is not None
    assert {row["measure"] for row in result.layers} == {
        "tokens", "kept_position", "zeros", "ties", "rank_correlation"
    }  # fmt: skip
    assert all(row.keys() == layers_of("layers") for row in result.layers)
    tokens = [row for row in result.layers if row["measure"] == "tokens"]
    assert [row["layer"] for row in tokens] == list(range(6))
    assert all(a["value"] > b["value"] for a, b in pairwise(tokens))
    again = zero_shot.run(context, zero_shot.Params(tasks=("piqa",)))
    assert again.layers == result.layers
    dense = build(replace(MODELS["mamba"], vocab_size=VOCABULARY))
    plain = context_of(dense, tokenizer, tmp_path, data=tmp_path / "data")
    assert zero_shot.run(plain, zero_shot.Params(tasks=("piqa",))).layers == []


def test_perplexity_of_a_text_is_null_with_the_reason(
    model: Decoder, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    context = context_of(model, tokenizer, tmp_path, data=write_data(tmp_path), limit=3)
    result = perplexity.run(context, perplexity.Params(length=8))
    (row,) = result.metrics
    assert row.keys() == METRIC_FIELDS
    assert (row["task"], row["metric"], row["value"]) == ("wikitext", "perplexity", None)
    assert row["reason"].startswith("token pruning acts on prompts; ")
    assert (row["higher_is_better"], result.samples) == (False, [])
    result = wikitext.run(context, wikitext.Params())
    assert {row["metric"]: row["value"] for row in result.metrics} == dict.fromkeys(
        ("word_perplexity", "byte_perplexity", "bits_per_byte")
    )
    assert all(row["reason"] and row.keys() == METRIC_FIELDS for row in result.metrics)
    assert not any(row["higher_is_better"] for row in result.metrics)


def test_tasks_with_prompts_are_scored_beside_those_without(
    model: Decoder, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    context = context_of(model, tokenizer, tmp_path, data=write_data(tmp_path))
    result = lm_eval.run(context, lm_eval.Params(tasks=("piqa", "wikitext")))
    values = {(row["task"], row["metric"]): row["value"] for row in result.metrics}
    assert values["piqa", "acc"] is not None
    assert values["wikitext", "word_perplexity"] is None
    assert {sample["task"] for sample in result.samples} == {"piqa"}


@pytest.mark.parametrize("name", ["mamba", "mamba2", "hybrid"])
def test_latency_prefills_pruned_and_decodes_from_what_that_leaves(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = reduced(name)
    ids = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        state, token = _latency_work.prefill(model, ids)
        hidden, expected = model.hidden(prompts(*ids.tolist()))
        last = hidden.view(2, 20, -1)[:, -1]
        assert hidden.isnan().any()
        assert token.tolist() == model.logits(last).argmax(-1).tolist()
        for mine, theirs in zip(state.layers, expected.layers, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        _latency_work.decode(model, token, state, 3)
    dense = build(replace(MODELS[name], vocab_size=VOCABULARY))
    params = latency.Params(
        prefill=((2, 20),), decode=((1, 20),), decode_steps=2, repeats=2, warmup=0
    )
    context = context_of(model, tokenizer, tmp_path, dense=lambda: dense)
    result = latency.run(context, params)
    assert [row["phase"] for row in result.latency] == ["prefill", "decode"]
    assert all(row.keys() == LATENCY_FIELDS for row in result.latency)
    assert result.layers == []
    assert model.reducer.accounts is None
