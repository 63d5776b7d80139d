"""Simba's six tasks: shots, metrics, the mean over them, and what their inputs cost."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from evaluate_helpers import both, context_of, tiny_mamba2, tiny_tokenizer, write_data, write_lines
from store_helpers import acc_rows, finish, make_cell, make_suite, new_run, nll_rows

import ssmbench
from ssmbench.models.token_flops import count
from ssmbench.report._build import build_all
from ssmbench.store.ledger import Ledger
from ssmbench.suites import few_shot
from ssmbench.suites._tasks import load_tasks
from ssmbench.zoo import tinyworld

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.report._table import Table

# Spec: the paper's appendix A.1.
SHOTS = {
    "lambada_openai": 5,
    "hellaswag": 10,
    "piqa": 5,
    "arc_easy": 25,
    "arc_challenge": 25,
    "winogrande": 5,
}
METRICS = {
    ("lambada_openai", "acc"),
    ("lambada_openai", "perplexity"),
    ("hellaswag", "acc_norm"),
    ("piqa", "acc"),
    ("arc_easy", "acc"),
    ("arc_challenge", "acc_norm"),
    ("winogrande", "acc"),
}
COSTS = {"prompt_tokens", "answer_tokens", "flops_all", "flops_scored"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose train splits are long enough, each line marked as an example."""
    folder = write_data(tmp_path_factory.mktemp("data"))
    marks = {"hellaswag": "ctx_a", "piqa": "goal", "winogrande": "sentence"}
    for task, field in marks.items():
        lines = (folder / task / "validation.jsonl").read_text().splitlines()
        _examples(folder / task / "train.jsonl", [json.loads(line) for line in lines], field)
    for level in ("ARC-Easy", "ARC-Challenge"):
        path = folder / "arc" / level / "train.jsonl"
        _examples(path, [json.loads(line) for line in path.read_text().splitlines()], "question")
    return folder


def _examples(path: Path, rows: list[dict[str, Any]], field: str) -> None:
    write_lines(path, [{**row, field: f"EG{i} {row[field]}"} for i in range(7) for row in rows])


@pytest.fixture(scope="module")
def scored(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    _, model = both(tiny_mamba2(), folder)
    context = context_of(model, tiny_tokenizer(), folder, data=data, limit=3, batch_tokens=4096)
    return context, few_shot.run(context, few_shot.Params())


def prompts_of(task: str, data: Path) -> list[tuple[str, str]]:
    """The requests that the suite made last, from the loaded task that it shares."""
    shots = few_shot.SETTINGS[task].shots
    loaded = load_tasks([task], shots=shots, data=data, configs={}).tasks[task]
    return [instance.args[:2] for instance in loaded.instances]


@pytest.mark.parametrize("task", SHOTS)
def test_each_task_has_its_shots_and_they_are_not_the_documents_that_are_scored(
    task: str, scored: Any, data: Path
) -> None:
    for context, _ in prompts_of(task, data):
        *examples, asked = context.split("\n\n")
        assert len(examples) == SHOTS[task]
        if task != "lambada_openai":  # It has no split but the one that is scored.
            assert all("EG" in example for example in examples)
            assert "EG" not in asked


def test_each_task_has_its_metrics_and_samples(scored: Any) -> None:
    _, result = scored
    rows = {(m["task"], m["metric"]): m for m in result.metrics if m["metric"] not in COSTS}
    assert rows.keys() == METRICS
    assert {m["n"] for m in rows.values()} == {3}
    assert rows["lambada_openai", "acc"]["chance"] == 0
    assert rows["winogrande", "acc"]["chance"] == 0.5
    sampled = {(s["task"], s["metric"]) for s in result.samples}
    assert sampled == {(t, "nll" if m == "perplexity" else m) for t, m in METRICS}


@pytest.mark.parametrize("task", SHOTS)
def test_the_mean_tokens_and_flops_are_those_of_the_requests(
    task: str, scored: Any, data: Path
) -> None:
    context, result = scored
    found = {m["metric"]: m for m in result.metrics if m["task"] == task and m["metric"] in COSTS}
    tokenizer = context.tokenizer
    pairs = prompts_of(task, data)
    # As lm-eval: blanks that end a context belong to the continuation.
    T = [len(tokenizer.encode(c.rstrip())) for c, _ in pairs]
    M = [len(tokenizer.encode(c + a)) - t for (c, a), t in zip(pairs, T, strict=True)]
    n = len(pairs)
    assert found["prompt_tokens"]["value"] == pytest.approx(sum(T) / n)
    assert found["answer_tokens"]["value"] == pytest.approx(sum(M) / n)
    assert {m["n"] for m in found.values()} == {n}
    one = count(context.model.description, prompt=round(sum(T) / n), answer=round(sum(M) / n))
    assert found["flops_all"]["value"] == one.total("all")
    assert found["flops_scored"]["value"] == one.total("scored")


def test_tasks_can_be_chosen_and_every_run_sees_the_same_examples(scored: Any) -> None:
    context, whole = scored
    part = few_shot.run(context, few_shot.Params(tasks=("winogrande",)))
    assert {m["task"] for m in part.metrics} == {"winogrande"}
    assert part.samples == [s for s in whole.samples if s["task"] == "winogrande"]


def test_tinyworlds_tasks_are_asked_after_two_others_of_their_kind() -> None:
    dense = ssmbench.load("zoo:mamba2")
    found = ssmbench.evaluate(dense, [{"suite": "few_shot", "tasks": "tinyworld"}], limit=20)
    metrics = {(m["task"], m["metric"]): m for m in found["metrics"].rows(named=True)}
    assert metrics["tw_facts_easy", "acc"]["best"] == 1
    accuracies = [m for (_, metric), m in metrics.items() if metric == "acc"]
    assert len(accuracies) == 6
    # Chance is 0.31 on the mean; the model reads on over <eos> as it was trained to.
    assert sum(m["value"] for m in accuracies) / 6 > 0.6
    config = few_shot._tiny()["tw_pair"]
    task = load_tasks(["tw_pair"], shots=2, data=None, configs={"tw_pair": config}).tasks["tw_pair"]
    words = task.instances[0].args[0].split()
    assert words.count(tinyworld.EOS) == 2
    assert set(words) <= set(tinyworld.vocabulary())


def test_a_model_that_drops_tokens_says_so_for_each_task() -> None:
    model = ssmbench.compress(ssmbench.load("zoo:mamba-s"), "simba", ratio=0.5)
    found = ssmbench.evaluate(model, [{"suite": "few_shot", "tasks": "tinyworld"}], limit=2)
    layers = found["layers"].filter(layer=0, measure="tokens")
    costs = found["metrics"].filter(metric="prompt_tokens")
    assert layers["place"].to_list() == costs["task"].to_list()
    assert layers.filter(place="tw_last_word")["value"].to_list() == pytest.approx(
        costs.filter(task="tw_last_word")["value"].to_list()
    )


def test_what_makes_the_numbers_and_what_they_cost_is_known_to_the_plan(data: Path) -> None:
    six, tiny = few_shot.Params(), few_shot.Params(tasks="tinyworld")
    assert few_shot.provides(six) == {"lm_eval": version("lm-eval")}
    assert few_shot.provides(tiny).keys() == {"lm_eval", "tinyworld"}
    assert few_shot.files(few_shot.Params(tasks=("piqa",)), data) == [
        data / "piqa/validation.jsonl"
    ]
    assert few_shot.files(tiny, data) == []
    assert few_shot.tokens(few_shot.Params(tasks=("piqa", "winogrande")), 10) == 2530 + 1510
    # Without examples they are 2.35 million.
    six_tokens = few_shot.tokens(six, None)
    assert six_tokens is not None
    assert six_tokens == pytest.approx(1.65e7, rel=0.03)


def test_real_prompts_are_as_long_as_the_plan_expects(shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "data/tokenizers/gpt-neox-20b")
    for name in ("piqa", "winogrande"):
        setting = few_shot.SETTINGS[name]
        loaded = load_tasks([name], shots=setting.shots, data=shared / "data", configs={})
        task = loaded.tasks[name]
        task.set_fewshot_seed(seed=1234)
        task.build_all_requests(limit=100)
        pairs = [instance.args[:2] for instance in task.instances]
        prompts = {c: len(tokenizer.encode(c)) for c, _ in pairs}
        answers = sum(len(tokenizer.encode(c + a)) - prompts[c] for c, a in pairs)
        n_tokens = sum(prompts.values()) / (2 if name == "winogrande" else 1) + answers
        assert n_tokens / 100 == pytest.approx(setting.tokens, rel=0.1)


def test_three_documents_of_lambada_are_their_own_examples(shared: Path) -> None:
    """As the suite's docstring says of lm-eval 0.4.13, which puts two blanks into examples, too."""
    loaded = load_tasks(["lambada_openai"], shots=5, data=shared / "data", configs={})
    task = loaded.tasks["lambada_openai"]
    task.set_fewshot_seed(seed=1234)
    drawn = [(doc, task.sampler.sample(n=5, eval_doc=None)) for doc in task.eval_docs]
    assert [i for i, (doc, examples) in enumerate(drawn) if doc in examples] == [778, 1831, 2236]
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=1)
    words = [example["text"].split(" ") for example in drawn[0][1]]
    shown = [f"{' '.join(text[:-1])}  {text[-1]}" for text in words]
    assert task.instances[0].args[0].startswith("\n\n".join(shown))


# --- the report ----------------------------------------------------------------------------


def named(tables: list[Table], name: str) -> Table:
    return next(t for t in tables if t.name == name)


@pytest.fixture
def report(tmp_path: Path) -> list[Table]:
    """Dense and pruned: two tasks with acc, one with acc_norm, a perplexity, and costs."""
    folder = new_run(tmp_path / "run")
    suite = make_suite("few_shot")
    with Ledger.open(folder) as ledger:
        for method, right, flops in (("dense", 3, 2e9), ("simba", 1, 1e9)):
            cell = make_cell(method=method, ratio=0.0 if method == "dense" else 0.5)
            xs = [1] * right + [0] * (4 - right)
            rows = acc_rows({"lambada_openai": xs, "piqa": xs})
            for more in (
                acc_rows({"hellaswag": [0] * 4}, metric="acc_norm"),
                nll_rows([1.0, 2.0], [1.0, 1.0], task="lambada_openai"),
            ):
                rows = {key: rows[key] + more[key] for key in rows}
            for task in ("lambada_openai", "piqa", "hellaswag"):
                for metric, value in (
                    ("prompt_tokens", 400.5),
                    ("answer_tokens", 2.25),
                    ("flops_all", flops),
                    ("flops_scored", flops / 2),
                ):
                    rows["metrics"].append({"task": task, "metric": metric, "value": value, "n": 4})
            finish(folder, ledger, cell, suite, rows, attempt=f"a{method}")
    return build_all(folder)


def test_the_mean_is_over_all_tasks_each_with_its_own_accuracy(report: list[Table]) -> None:
    table = named(report, "quality-few_shot-accuracy")
    headers = [c.header for c in table.columns]
    assert headers[3:] == ["mean", "lambada_openai acc", "piqa acc", "hellaswag acc_norm"]
    means = [row[3].numbers["value"] for row in table.rows[:2]]
    assert means == pytest.approx([0.75 * 2 / 3, 0.25 * 2 / 3])
    assert named(report, "quality-few_shot-perplexity").columns[3].header == "lambada_openai"


def test_costs_have_a_table_of_their_own_with_the_tasks_lengths(report: list[Table]) -> None:
    names = [t.name for t in report if "few_shot" in t.name]
    assert not [n for n in names if "number" in n]
    table = named(report, "inputs-few_shot")
    texts = [[shown.text for shown in row] for row in table.rows]
    assert texts[0][1:4] == ["dense", "0", "2.00 G [1.00 G]"]
    assert texts[1][1:4] == ["simba", "0.5", "1.00 G [500 M]"]
    assert texts[2][1:4] == ["prompt tokens", "", "400.5"]
    assert texts[3][1:4] == ["answer tokens", "", "2.250"]


def test_a_suite_with_two_accuracies_of_one_task_keeps_two_tables(tmp_path: Path) -> None:
    folder = new_run(tmp_path / "run")
    one, two = acc_rows({"piqa": [1, 0]}), acc_rows({"piqa": [1, 1]}, metric="acc_norm")
    rows = {key: one[key] + two[key] for key in one}
    with Ledger.open(folder) as ledger:
        cell = make_cell(method="dense", ratio=0.0)
        finish(folder, ledger, cell, make_suite("lm_eval"), rows, attempt="a")
    names = {t.name for t in build_all(folder)}
    assert {"quality-lm_eval-acc", "quality-lm_eval-acc_norm"} <= names
