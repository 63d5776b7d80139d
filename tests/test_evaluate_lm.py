"""Our LM against lm-eval's HFLM on the same weights, and against its own naive twin."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from evaluate_helpers import (
    END,
    TEXT,
    VOCABULARY,
    both,
    tiny_gpt_neox,
    tiny_mamba,
    tiny_mamba2,
    tiny_tokenizer,
)
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerFast

from ssmbench.errors import CommandError, DataError, NumericalError
from ssmbench.suites import _scoring
from ssmbench.suites._lm import DecoderLM

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.models.decoder import Decoder
    from ssmbench.suites._tree import Row


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def mamba2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder]:
    return both(tiny_mamba2(), tmp_path_factory.mktemp("mamba2"))


def request(context: str, continuation: str, *, doc: int = 0, task: str = "t") -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0, (task, doc, 1))


def awkward_requests(*, longest: int) -> list[Instance]:
    """Shared contexts, ragged lengths, truncation, empty contexts, duplicates, short answers."""
    draw = random.Random(0)
    words = TEXT.split()
    pairs = []
    for _ in range(6):
        context = " ".join(draw.choices(words, k=draw.randint(1, 25)))
        pairs += [
            (context, " " + " ".join(draw.choices(words, k=draw.randint(1, 12)))) for _ in range(4)
        ]
    stem = "the old man with a red hat"
    pairs += [(stem, " a"), (stem, " b"), (stem, " c"), (stem, " a")]  # one token each, twice one
    pairs += [
        (f"{stem} and the {who}", " ran to the house") for who in ("cat", "dog")
    ]  # winogrande
    pairs += [("", "the cat"), ("", "dog"), ("trailing space  ", "sat on"), ("a", " the mat " * 3)]
    pairs += [
        (" ".join(words * 3)[: longest * 6], f" {end}") for end in ("house", "bird sang", "x")
    ]
    draw.shuffle(pairs)
    return [request(c, k, doc=i, task=f"task{i % 2}") for i, (c, k) in enumerate(pairs)]


def scores_of(lm: Any, requests: list[Instance]) -> tuple[torch.Tensor, list[bool]]:
    found = lm.loglikelihood(requests, disable_tqdm=True)
    return torch.tensor([f[0] for f in found]), [bool(f[1]) for f in found]


@pytest.mark.parametrize("make", [tiny_mamba, tiny_mamba2, tiny_gpt_neox])
@pytest.mark.parametrize("longest", [20, 2048])
def test_scores_equal_hflms_request_by_request(
    make: Any, longest: int, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    theirs, ours = both(make(), tmp_path)
    requests = awkward_requests(longest=60)
    reference = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=4, max_length=longest)
    expected, expected_greedy = scores_of(reference, requests)
    lm = DecoderLM(ours, tokenizer, batch_tokens=200, max_length=longest)
    nats, greedy = scores_of(lm, requests)
    torch.testing.assert_close(nats, expected, rtol=0, atol=1e-3)
    assert greedy == expected_greedy
    assert len(set(expected.tolist())) > len(requests) // 2


def test_a_text_that_is_cut_in_two_places_is_scored_at_both(
    mamba2: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast
) -> None:
    theirs, ours = mamba2
    requests = [request("the cat", " sat on the mat"), request("the cat sat on", " the mat")]
    # With its default logits_cache HFLM reads the shorter continuation at the longer's place.
    reference = HFLM(pretrained=theirs, tokenizer=tokenizer, logits_cache=False)
    expected, _ = scores_of(reference, requests)
    nats, _ = scores_of(DecoderLM(ours, tokenizer), requests)
    torch.testing.assert_close(nats, expected, rtol=0, atol=1e-3)


def test_greedy_is_true_for_what_the_model_would_say_itself(
    mamba2: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast
) -> None:
    theirs, ours = mamba2
    context = tokenizer.encode("the cat sat on")
    said = theirs.generate(torch.tensor([context]), max_new_tokens=4, do_sample=False)[0].tolist()
    lm = DecoderLM(ours, tokenizer)
    continuation = said[len(context) :]
    other = [*continuation[:-1], (continuation[-1] + 1) % VOCABULARY]
    found = lm._loglikelihood_tokens([(None, context, continuation), (None, context, other)])
    assert [greedy for _, greedy in found] == [True, False]


@pytest.mark.parametrize("batch_tokens", [1, 37, 4096])
def test_sharing_changes_no_score(
    batch_tokens: int, mamba2: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast
) -> None:
    requests = awkward_requests(longest=60)
    shared = DecoderLM(mamba2[1], tokenizer, batch_tokens=batch_tokens, max_length=64)
    naive = DecoderLM(mamba2[1], tokenizer, batch_tokens=64, max_length=64, share=False)
    nats, greedy = scores_of(shared, requests)
    expected, expected_greedy = scores_of(naive, requests)
    # atol 1e-4: float32 sums of up to 40 tokens in another order.
    torch.testing.assert_close(nats, expected, rtol=0, atol=1e-4)
    assert greedy == expected_greedy


def test_a_fork_at_the_prompt_alone_gives_the_same_scores(
    mamba2: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast
) -> None:
    def prompt(a: Row, b: Row) -> int:
        same = a.context == b.context and a.tokens[: a.context] == b.tokens[: b.context]
        return a.context if same else 0

    requests = awkward_requests(longest=60)
    nats, _ = scores_of(DecoderLM(mamba2[1], tokenizer, fork_point=prompt), requests)
    expected, _ = scores_of(DecoderLM(mamba2[1], tokenizer), requests)
    torch.testing.assert_close(nats, expected, rtol=0, atol=1e-4)


def test_rolling_windows_equal_hflms(
    mamba2: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast
) -> None:
    theirs, ours = mamba2
    texts = [TEXT, "the cat", TEXT * 2]
    requests = [
        Instance("loglikelihood_rolling", {}, (t,), 0, ("w", i, 1)) for i, t in enumerate(texts)
    ]
    reference = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=2, max_length=16)
    expected = reference.loglikelihood_rolling(requests, disable_tqdm=True)
    found = DecoderLM(ours, tokenizer, max_length=16).loglikelihood_rolling(requests)
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_head_in_small_pieces_reads_the_same(
    monkeypatch: pytest.MonkeyPatch,
    mamba2: tuple[Any, Decoder],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    requests = awkward_requests(longest=60)
    expected, _ = scores_of(DecoderLM(mamba2[1], tokenizer), requests)
    monkeypatch.setattr(_scoring, "LOGITS_BUDGET", 3 * VOCABULARY)
    found, _ = scores_of(DecoderLM(mamba2[1], tokenizer), requests)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_progress_counts_every_request_once(
    mamba2: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast
) -> None:
    seen: list[tuple[str, int, int]] = []
    requests = awkward_requests(longest=60)
    lm = DecoderLM(mamba2[1], tokenizer, batch_tokens=64, report=lambda *step: seen.append(step))
    lm.loglikelihood(requests)
    assert seen[0] == ("task0", 0, len(requests))
    assert seen[-1] == ("task1", len(requests), len(requests))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_model_that_is_not_finite_is_an_error(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _, model = both(tiny_mamba2(), tmp_path)
    model.norm_f.weight.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"t: .*not finite"):
        DecoderLM(model, tokenizer).loglikelihood([request("the cat", " sat")])


def test_writing_text_is_refused_by_name(
    mamba2: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast
) -> None:
    lm = DecoderLM(mamba2[1], tokenizer)
    with pytest.raises(CommandError, match="gsm8k: this task lets the model write text"):
        lm.generate_until([Instance("generate_until", {}, ("x", {}), 0, ("gsm8k", 0, 1))])


def test_an_empty_continuation_is_refused(
    mamba2: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(DataError, match="0 continuation tokens"):
        DecoderLM(mamba2[1], tokenizer).loglikelihood([request("the cat", "")])


def test_the_longest_input_is_the_tokenizers_or_2048(
    mamba2: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast
) -> None:
    assert DecoderLM(mamba2[1], tokenizer).max_length == 2048
    short = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token=END, model_max_length=77
    )
    assert DecoderLM(mamba2[1], short).max_length == 77
