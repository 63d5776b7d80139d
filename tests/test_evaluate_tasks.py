"""lm-eval's tasks on local data: the originals' prompts and metrics, our scores."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from evaluate_helpers import (
    both,
    context_of,
    tiny_mamba2,
    tiny_tokenizer,
    write_data,
    write_lines,
)
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

from ssmbench.errors import CommandError, DataError
from ssmbench.suites import _tasks, zero_shot
from ssmbench.suites._harness import score_tasks, stderr
from ssmbench.suites._overlay import LOCAL_TASKS, original
from ssmbench.suites._tasks import load_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

    from ssmbench.models.decoder import Decoder
    from ssmbench.suites._context import Result

ALL = tuple(LOCAL_TASKS)
CHOICES = {
    "task": "choices",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{a}}",
    "doc_to_target": "{{i}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Decoder]:
    return both(tiny_mamba2(), tmp_path_factory.mktemp("mamba2"))


def values(result: Result) -> dict[tuple[str, str], float]:
    return {(m["task"], m["metric"]): m["value"] for m in result.metrics}


def hflm_values(
    theirs: Any, tokenizer: Any, data: Path, tasks: tuple[str, ...]
) -> dict[Any, float]:
    loaded = load_tasks(tasks, shots=0, data=data, configs={})
    reference = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=2, max_length=2048)
    found = evaluate(reference, {"tasks": loaded.tasks}, bootstrap_iters=0)
    return {
        (task, key.split(",")[0]): value
        for task, row in found["results"].items()
        for key, value in row.items()
        if "," in key and "stderr" not in key
    }


def test_metrics_equal_hflms(
    models: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast, data: Path, tmp_path: Path
) -> None:
    theirs, ours = models
    expected = hflm_values(theirs, tokenizer, data, ALL)
    found = values(score_tasks(context_of(ours, tokenizer, tmp_path, data=data), ALL))
    assert found.keys() == expected.keys()
    for (task, metric), value in expected.items():
        if metric in ("acc", "acc_norm"):
            assert found[task, metric] == value
        else:  # perplexities of float32 sums: 1e-3 nats of a request
            assert found[task, metric] == pytest.approx(value, rel=1e-3)


def test_hellaswags_own_processing_is_applied(data: Path) -> None:
    task = load_tasks(["hellaswag"], shots=0, data=data, configs={}).tasks["hellaswag"]
    document = task.eval_docs[0]
    # lm-eval's utils.preprocess: "[…]" removed, double blanks closed; ctx_b capitalised.
    assert task.doc_to_text(document) == "Red hat: the cat sat on the mat. Then it"
    assert task.doc_to_choice(document)[1] == "sang all day."
    assert task.doc_to_target(document) == 0


def test_prompts_and_choices_are_the_original_files(data: Path) -> None:
    tasks = load_tasks(ALL, shots=0, data=data, configs={}).tasks
    piqa, arc = tasks["piqa"], tasks["arc_easy"]
    winogrande, lambada = tasks["winogrande"], tasks["lambada_openai"]
    assert piqa.doc_to_text(piqa.eval_docs[0]) == "Question: who is the cat?\nAnswer:"
    assert arc.doc_to_choice(arc.eval_docs[1]) == ["house", "garden", "mat"]
    assert winogrande.doc_to_choice(winogrande.eval_docs[0]) == [
        "the cat ran to the dog because the cat",
        "the cat ran to the dog because the dog",
    ]
    assert lambada.doc_to_target(lambada.eval_docs[0]) == " house"
    assert [len(tasks[t].eval_docs) for t in ALL] == [8, 4, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("name", ALL)
def test_an_overlaid_task_keeps_the_originals_configuration(name: str, data: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    replaced = {"dataset_path", "dataset_name", "dataset_kwargs", "training_split"}
    overlaid = load_tasks([name], shots=0, data=data, configs={}).tasks[name].config
    for key, value in load_yaml(original(name), resolve_func=False).items():
        if key in replaced | {"metadata", "tag"}:
            continue
        mine = getattr(overlaid, key)
        if callable(mine):  # a function of the original's own folder
            assert str(value).endswith(f"{mine.__module__.split('.')[-1]}.{mine.__name__}")
        else:
            assert mine == value


def test_examples_in_the_prompt_come_from_the_train_split_and_stay_the_same(
    data: Path, models: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    context = context_of(models[1], tokenizer, tmp_path, data=data, limit=2)
    prompts = []
    for _ in range(2):
        score_tasks(context, ["piqa"], shots=2)
        task = load_tasks(["piqa"], shots=2, data=data, configs={}).tasks["piqa"]
        prompts.append([i.args[0] for i in task.instances])
    assert prompts[0] == prompts[1]
    assert all(p.count("TRAIN") == 2 for p in prompts[0])


def test_reused_tasks_give_each_model_its_own_scores(
    models: tuple[Any, Decoder],
    tokenizer: PreTrainedTokenizerFast,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, other = both(tiny_mamba2(), tmp_path / "other", seed=7)
    first = context_of(models[1], tokenizer, tmp_path, data=data)
    before = score_tasks(first, ["wikitext"])
    monkeypatch.setattr(_tasks, "_load", lambda *_: pytest.fail("loaded again"))
    others = score_tasks(context_of(other, tokenizer, tmp_path, data=data), ["wikitext"])
    assert values(others) != values(before)
    assert values(score_tasks(first, ["wikitext"])) == values(before)


def test_samples_give_back_the_metrics(
    models: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast, data: Path, tmp_path: Path
) -> None:
    context = context_of(models[1], tokenizer, tmp_path, data=data)
    result = score_tasks(context, ["arc_easy", "lambada_openai", "wikitext"])
    found = values(result)

    def mean(task: str, metric: str) -> float:
        rows = [s for s in result.samples if (s["task"], s["metric"]) == (task, metric)]
        return sum(s["value"] for s in rows) / sum(s["weight"] for s in rows)

    assert mean("arc_easy", "acc") == found["arc_easy", "acc"]
    assert math.exp(mean("lambada_openai", "nll")) == pytest.approx(
        found["lambada_openai", "perplexity"]
    )
    assert math.exp(mean("wikitext", "nll")) == pytest.approx(found["wikitext", "word_perplexity"])
    ids = [s["doc_id"] for s in result.samples if s["task"] == "wikitext"]
    assert ids == ["0", "1", "2", "3"]


def test_a_limit_scores_the_first_documents(
    models: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast, data: Path, tmp_path: Path
) -> None:
    context = context_of(models[1], tokenizer, tmp_path, data=data, limit=3)
    result = zero_shot.run(context, zero_shot.Params(tasks=("lambada_openai", "arc_easy")))
    rows = {m["task"]: m for m in result.metrics}
    assert {(m["metric"], m["n"], m["limit"]) for m in result.metrics} == {("acc", 3, 3)}
    # Documents of four, three and four choices.
    assert rows["arc_easy"]["chance"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 4) / 3)
    assert rows["lambada_openai"]["chance"] == 0.0
    assert {s["doc_id"] for s in result.samples} == {"0", "1", "2"}


def test_a_task_given_as_a_dictionary_carries_what_is_known_of_it(
    models: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write_lines(tmp_path / "d.jsonl", [{"q": "the cat", "a": ["sat", "ran"], "i": 1}] * 3)
    config = {**CHOICES, "dataset_kwargs": {"data_files": {"test": str(tmp_path / "d.jsonl")}}}
    context = context_of(models[1], tokenizer, tmp_path)
    known = {"choices": {"chance": 0.4, "best": 0.9}}
    (row,) = score_tasks(context, ["choices"], configs={"choices": config}, known=known).metrics
    assert (row["n"], row["chance"], row["best"], row["reason"]) == (3, 0.4, 0.9, None)


def test_a_perplexity_beyond_all_floats_is_null_with_its_reason(
    models: tuple[Any, Decoder], tokenizer: PreTrainedTokenizerFast, data: Path, tmp_path: Path
) -> None:
    _, wild = both(tiny_mamba2(), tmp_path / "wild")
    wild.norm_f.weight.data.mul_(3000)
    context = context_of(wild, tokenizer, tmp_path, data=data)
    rows = {m["metric"]: m for m in score_tasks(context, ["wikitext"]).metrics}
    assert rows["word_perplexity"]["value"] is None
    assert "not a finite number (inf)" in rows["word_perplexity"]["reason"]
    assert rows["bits_per_byte"]["value"] > 100


@pytest.mark.parametrize(
    ("how", "items", "expected"),
    [
        # Mean 2, variance 2·(1+1)/… : values 1, 2, 3 -> sd 1, over the root of 3.
        ("mean", [1, 2, 3], 1 / math.sqrt(3)),
        ("perplexity", [-1, -2, -3], math.exp(2) / math.sqrt(3)),
        # Equal weights: the ratio is the mean over the weight.
        ("weighted_perplexity", [(-2, 2), (-4, 2), (-6, 2)], math.exp(2) / math.sqrt(3)),
        ("bits_per_byte", [(-2, 2), (-4, 2), (-6, 2)], 1 / math.sqrt(3) / math.log(2)),
        # A document in proportion to its weight says nothing new about the rate.
        ("weighted_perplexity", [(-2, 2), (-4, 4), (-6, 6)], 0.0),
        ("mean", [1], None),
        ("f1", [(1, 0), (0, 1)], None),
    ],
)
def test_standard_errors_by_hand(how: str, items: list[Any], expected: float | None) -> None:
    assert stderr(how, items) == (None if expected is None else pytest.approx(expected))


def test_a_missing_file_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "piqa").mkdir()
    with pytest.raises(DataError, match=r"piqa/validation\.jsonl: this file is missing"):
        load_tasks(["piqa"], shots=0, data=tmp_path, configs={})
    with pytest.raises(DataError, match=r"hellaswag/train\.jsonl: this file is missing"):
        load_tasks(["hellaswag"], shots=1, data=data, configs={})
    with pytest.raises(DataError, match="no such folder"):
        load_tasks(["piqa"], shots=0, data=tmp_path / "nowhere", configs={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"text": "a b"}\nnot json\n', r":2: not JSON"),
        ('["a b"]\n', r":1: list found"),
        ('{"text": "a b"}\n{"words": "a b"}\n', r":2: no text; every line needs text"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "lambada_openai/lambada_test.jsonl"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(DataError, match=rf"lambada_test\.jsonl.*{message}"):
        load_tasks(["lambada_openai"], shots=0, data=tmp_path, configs={})


def test_a_task_outside_the_documented_layout_is_named(data: Path) -> None:
    with pytest.raises(DataError, match="holds no openbookqa; its layout covers lambada_openai"):
        load_tasks(["piqa", "openbookqa"], shots=0, data=data, configs={})


def test_with_neither_network_nor_data_the_error_says_how_to_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError, match=r"piqa: its data set baber/piqa .*--data DIR.*HF_HOME"):
        load_tasks(["piqa"], shots=0, data=None, configs={})


@pytest.mark.slow
def test_an_unknown_task_is_met_with_the_nearest_name() -> None:
    with pytest.raises(CommandError, match=r"no task 'helaswag'\. Did you mean 'hellaswag'"):
        load_tasks(["helaswag"], shots=0, data=None, configs={})


def test_real_documents_have_their_published_counts(shared: Path) -> None:
    tasks = load_tasks(ALL, shots=0, data=shared / "data", configs={}).tasks
    counts = {name: len(task.eval_docs) for name, task in tasks.items()}
    assert counts == {name: size for name, (size, _) in zero_shot.SIZES.items()} | {"wikitext": 62}


@pytest.mark.slow
def test_real_documents_score_as_hflm_scores_them(shared: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "data/tokenizers/gpt-neox-20b")
    theirs, ours = both(tiny_mamba2(50288), tmp_path / "model")
    loaded = load_tasks(zero_shot.SIX, shots=0, data=shared / "data", configs={})
    from ssmbench.suites._lm import DecoderLM

    requests = []
    for task in loaded.tasks.values():
        task.build_all_requests(limit=4)
        requests += task.instances
    reference = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=8)
    expected = reference.loglikelihood(requests, disable_tqdm=True)
    found = DecoderLM(ours, tokenizer, batch_tokens=1024).loglikelihood(requests)
    torch.testing.assert_close(
        torch.tensor([f[0] for f in found]),
        torch.tensor([e[0] for e in expected]),
        rtol=1e-5,  # sums of several hundred nats in float32
        atol=1e-3,
    )
    assert [f[1] for f in found] == [e[1] for e in expected]


def test_the_overlay_is_json_that_names_the_installed_original(data: Path, tmp_path: Path) -> None:
    from ssmbench.suites._overlay import write_overlay

    write_overlay(tmp_path, ["piqa"], data=data, shots=0)
    written = json.loads((tmp_path / "piqa.yaml").read_text())
    assert written["include"].endswith("lm_eval/tasks/piqa/piqa.yaml")
    assert written["dataset_kwargs"]["data_files"] == {
        "validation": str((data / "piqa/validation.jsonl").resolve())
    }


def test_the_documentation_lists_every_file(request: pytest.FixtureRequest) -> None:
    page = (request.config.rootpath / "docs/local-data.md").read_text()
    for name, task in LOCAL_TASKS.items():
        for file in task.splits.values():
            rows = [line for line in page.splitlines() if f"`{file}`" in line]
            assert any(f"`{name}`" in row for row in rows)
