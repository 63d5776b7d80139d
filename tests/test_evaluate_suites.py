"""The suites: their contract, fixed-window perplexity, latency."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from evaluate_helpers import TEXT, both, context_of, tiny_mamba2, tiny_tokenizer, write_data
from transformers import AutoTokenizer

from ssmbench import plugins
from ssmbench.errors import DataError, NumericalError
from ssmbench.plan.cells import digest
from ssmbench.suites import _latency_work, lm_eval, perplexity, wikitext, zero_shot
from ssmbench.zoo import tinyworld

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

    from ssmbench.models.decoder import Decoder

METRIC_FIELDS = {
    "task", "metric", "value", "stderr", "n", "limit", "higher_is_better", "reason", "chance",
    "best",
}  # fmt: skip
LATENCY_FIELDS = {
    "phase", "batch", "length", "reason", "median_s", "p10_s", "p90_s", "p99_s", "n",
    "tokens_per_s", "first_token_s", "timer", "raw_s", "wall_raw_s", "first_call_s", "warmup_s",
    "peak_memory_bytes", "weights_bytes", "state_bytes", "dense_median_s", "dense_raw_s",
    "dense_warmup_s", "dense_peak_memory_bytes", "speedup", "floor_s", "floor_raw_s",
    "publishable", "disturbance", "clock_mhz", "power_w", "temperature_c", "n_semi_structured",
    "graph", "capture_s",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder]:
    return both(tiny_mamba2(), tmp_path_factory.mktemp("mamba2"))


@pytest.mark.parametrize("name", plugins.names("suite"))
def test_every_suite_keeps_the_contract(name: str) -> None:
    suite = plugins.load("suite", name)
    params = suite.Params(tasks=("piqa",)) if name == "lm_eval" else suite.Params()
    assert suite.__doc__
    assert isinstance(suite.VERSION, int)
    assert suite.KIND in ("quality", "timing")
    assert digest(suite.provides(params))
    assert digest(params.model_dump(mode="json"))
    assert callable(suite.run)
    if hasattr(suite, "tokens"):
        least = 0 if name == "training" else 1  # The training's curve is there already.
        assert suite.tokens(params, None) >= suite.tokens(params, 3) >= least


def test_suites_import_neither_torch_nor_lm_eval() -> None:
    code = (
        "import sys; from ssmbench import plugins\n"
        "for n in plugins.names('suite'): plugins.load('suite', n)\n"
        "print([m for m in ('torch', 'lm_eval', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_six_tasks_cost_what_was_counted_on_the_real_documents() -> None:
    six = zero_shot.tokens(zero_shot.Params(), None)
    assert six is not None
    assert six == pytest.approx(2.35e6, rel=0.01)  # counted with the GPT-NeoX tokenizer
    assert zero_shot.tokens(zero_shot.Params(tasks=("piqa",)), 100) == 4880
    assert wikitext.tokens(wikitext.Params(), 1) == 4471
    assert not hasattr(lm_eval, "tokens")


def naive_nats(theirs: Any, ids: list[int], length: int) -> list[tuple[float, int]]:
    """One window at a time through transformers, each token but the first scored."""
    found = []
    for start in range(0, len(ids), length):
        window = torch.tensor(ids[start : start + length])
        if len(window) > 1:
            with torch.inference_mode():
                logits = theirs(window[None]).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum")
            found.append((float(loss), len(window) - 1))
    return found


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_perplexity_equals_a_naive_loop_and_scores_no_padding(
    batch_tokens: int,
    models: tuple[Any, Decoder],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    theirs, ours = models
    lines = [TEXT + "\n", "\n", "   \n", "the cat sat\n", TEXT[:50] + "\n"]
    path = tmp_path / "story.txt"
    path.write_text("".join(lines))
    ids = [i for n in (0, 3, 4) for i in tokenizer.encode(lines[n], add_special_tokens=False)]
    expected = naive_nats(theirs, ids, 16)
    assert expected[-1][1] < 15  # the last window is a partial one
    context = context_of(ours, tokenizer, tmp_path, batch_tokens=batch_tokens)
    result = perplexity.run(context, perplexity.Params(data=str(path), length=16))
    (row,) = result.metrics
    assert row.keys() == METRIC_FIELDS
    total, weight = (math.fsum(x) for x in zip(*expected, strict=True))
    assert row["value"] == pytest.approx(math.exp(total / weight), rel=1e-5)
    assert (row["task"], row["n"]) == ("story", len(expected))
    found = [(s["value"], s["weight"]) for s in result.samples]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=1e-4)


def test_a_single_token_after_the_last_whole_window_is_left_out() -> None:
    assert list(perplexity.windows([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4]]
    assert list(perplexity.windows([1, 2, 3], 2048)) == [[1, 2, 3]]
    assert list(perplexity.windows([1], 2)) == []


def test_a_limit_scores_the_first_windows(
    models: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    data = write_data(tmp_path)
    params = perplexity.Params(length=8)
    context = context_of(models[1], tokenizer, tmp_path, data=data)
    whole = perplexity.run(context, params)
    part = perplexity.run(context_of(models[1], tokenizer, tmp_path, data=data, limit=2), params)
    assert len(part.samples) == 2 < len(whole.samples)
    for mine, theirs in zip(part.samples, whole.samples, strict=False):
        # rel: another batch, another order of float32 sums.
        assert mine == {**theirs, "value": pytest.approx(theirs["value"], rel=1e-6)}
    assert (part.metrics[0]["limit"], whole.metrics[0]["limit"]) == (2, None)


def test_tinyworlds_text_is_held_out_and_always_the_same(tmp_path: Path) -> None:
    lines = perplexity.text_lines("tinyworld", None)
    words = " ".join(lines).split()
    assert len(words) == perplexity.TINYWORLD_TOKENS
    assert set(words) <= set(tinyworld.vocabulary())
    assert lines == perplexity.text_lines("tinyworld", tmp_path)
    assert perplexity.provides(perplexity.Params(data="tinyworld")) == {
        "tinyworld": tinyworld.VERSION
    }


def test_a_text_of_ones_own_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    params = perplexity.Params(data=str(path))
    before = perplexity.provides(params)
    path.write_text("two")
    assert perplexity.provides(params) != before


def test_missing_texts_are_named(
    models: tuple[Any, Decoder],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DataError, match=r"wiki\.test\.raw: this file is missing"):
        perplexity.text_lines("wikitext", tmp_path)
    with pytest.raises(DataError, match=r"'nowhere\.txt': no such file; expected wikitext"):
        perplexity.provides(perplexity.Params(data="nowhere.txt"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError, match=r"Salesforce/wikitext could not be read .*--data DIR"):
        perplexity.text_lines("wikitext", None)
    path = tmp_path / "blank.txt"
    path.write_text("\n \n")
    with pytest.raises(DataError, match="0 tokens found"):
        perplexity.run(
            context_of(models[1], tokenizer, tmp_path), perplexity.Params(data=str(path))
        )


def test_a_perplexity_beyond_all_floats_is_null_and_nan_is_an_error(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    _, wild = both(tiny_mamba2(), tmp_path)
    path = tmp_path / "t.txt"
    path.write_text(TEXT)
    context, params = context_of(wild, tokenizer, tmp_path), perplexity.Params(data=str(path))
    wild.norm_f.weight.data.mul_(3000)
    (row,) = perplexity.run(context, params).metrics
    assert row["value"] is None
    assert "beyond the largest float" in row["reason"]
    wild.norm_f.weight.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"t: .*not finite"):
        perplexity.run(context, params)


def test_wikitexts_lines_are_those_of_the_published_split(shared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "data/tokenizers/gpt-neox-20b")
    lines = perplexity.text_lines("wikitext", shared / "data")
    assert lines[1] == " = Robert Boulter = \n"
    assert sum(bool(line.strip()) for line in lines) == 2891
    assert len(perplexity.token_ids(tokenizer, lines)) == perplexity.WIKITEXT_TOKENS


def test_decoding_continues_the_prompt(models: tuple[Any, Decoder]) -> None:
    """The timed steps are real ones: they say what a forward over the whole text says."""
    _, model = models
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.inference_mode():
        state, token = _latency_work.prefill(model, ids)
        assert token.tolist() == model(ids)[:, -1].argmax(-1).tolist()
        _latency_work.decode(model, token, state, 3)
