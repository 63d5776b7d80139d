"""lm-eval's tasks on our models: its task files, prompts and metrics; our log-likelihoods.

Its caches are never used: the one for answers has no model in its key, so a compressed
model would be given its dense model's answers (EleutherAI/lm-evaluation-harness#2715).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ssmbench.suites._context import Context, Result, Row
from ssmbench.suites._costs import cost_rows
from ssmbench.suites._reduced import layer_rows, without_prompt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lm_eval.api.task import Task

    from ssmbench.suites._tasks import Loaded

FEWSHOT_SEED = 1234
"""lm-eval's default: every model sees the same examples, so that results can be paired."""

CHANCE_METRICS = ("acc", "acc_norm", "acc_bytes")


def score_tasks(
    context: Context,
    tasks: Sequence[str],
    *,
    shots: int | None = 0,
    metrics: Sequence[str] | None = None,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    known: Mapping[str, Mapping[str, float | None]] | None = None,
    costs: bool = False,
) -> Result:
    """Score a model on lm-eval tasks.

    Args:
        context: the model and its surroundings; `limit` documents of each task.
        tasks: names of lm-eval tasks, groups or tags, or keys of `configs`.
        shots: examples in each prompt; None leaves it to the task. A task that insists on
            0 in its own file keeps 0, as in lm-eval.
        metrics: keep these only; None keeps all that the tasks give.
        configs: tasks given as lm-eval task dictionaries, under the names in `tasks`.
        known: per task the "chance" and "best" values of its accuracy, where known; for
            multiple choice, chance is otherwise one over the number of choices.
        costs: also give the rows of `_costs.cost_rows` for each task.

    Returns:
        A metrics row for each task and metric, and a sample for each document: "acc" and
        the like with weight 1; for perplexities "nll", in nats, weighted by words (or 1
        where the task weighs documents equally). Of a model that drops tokens of prompts,
        also a row for each layer and measure; its metrics on whole texts are null.

    Raises:
        DataError: a data set is missing or malformed; the message says how to bring it.
        CommandError: a task does not exist or needs generated text.
    """
    from lm_eval.evaluator import evaluate

    from ssmbench.suites._lm import DecoderLM
    from ssmbench.suites._tasks import load_tasks

    loaded = load_tasks(tasks, shots=shots, data=context.data, configs=configs or {})
    for task in loaded.tasks.values():
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    result = Result()
    if context.model.reducer is not None:
        loaded, result.metrics = _set_apart(loaded, context.limit, metrics)
    model = DecoderLM(
        context.model, context.tokenizer, batch_tokens=context.batch_tokens, report=context.report
    )
    with layer_rows(context.model) as layers:
        found = evaluate(
            model,
            {"tasks": loaded.tasks, "groups": loaded.groups},
            limit=context.limit,
            bootstrap_iters=0,
            log_samples=True,
        )
    for name, task in loaded.tasks.items():
        facts = (known or {}).get(name, {})
        result.extend(_rows(name, task, found, facts, context.limit, metrics))
    result.metrics += _group_rows(found, context.limit, metrics)
    result.layers = layers
    if costs:
        for name, seen in model.lengths.items():
            result.metrics += cost_rows(context, name, seen)
    return result


def _set_apart(
    loaded: Loaded, limit: int | None, metrics: Sequence[str] | None
) -> tuple[Loaded, list[Row]]:
    """Part the tasks that have prompts from null rows for those that score whole texts.

    A group's average that such a task enters is not taken either.
    """
    rolling = {
        name: task
        for name, task in loaded.tasks.items()
        if task.OUTPUT_TYPE == "loglikelihood_rolling"
    }
    rows = [
        without_prompt(name, metric, limit=limit) | {"higher_is_better": better.get(metric)}
        for name, task in rolling.items()
        for better in (task.higher_is_better(),)
        for metric in task.aggregation()
        if metrics is None or metric in metrics
    ]
    tasks = {name: task for name, task in loaded.tasks.items() if name not in rolling}
    return loaded._replace(tasks=tasks, groups={} if rolling else loaded.groups), rows


def _rows(
    name: str,
    task: Task,
    found: Any,
    facts: Mapping[str, float | None],
    limit: int | None,
    metrics: Sequence[str] | None,
) -> Result:
    """Turn one task's results into rows."""
    result = Result()
    documents = found["samples"][name]
    for key, value in found["results"][name].items():
        metric, comma, filter_name = key.partition(",")
        wanted = metrics is None or metric in metrics
        if not comma or metric.endswith("_stderr") or not wanted:
            continue
        label = metric if filter_name == "none" else key
        scored = [d for d in documents if d["filter"] == filter_name and metric in d]
        how = _how(task, metric)
        accuracy = metric in CHANCE_METRICS
        chance = _chance(task, scored) if accuracy else None
        result.metrics.append(
            _metric_row(name, label, value, limit)
            | {
                "stderr": stderr(how, [d[metric] for d in scored]),
                "n": len(scored),
                "higher_is_better": task.higher_is_better().get(metric),
                "chance": facts.get("chance", chance) if accuracy else None,
                "best": facts.get("best") if accuracy else None,
            }
        )
        result.samples += _samples(name, label, how, scored, metric)
    return result


def _metric_row(task: str, metric: str, value: Any, limit: int | None) -> Row:
    """Give a metrics row whose value is null, with the reason, unless it is a number."""
    number = float(value) if isinstance(value, int | float) else math.nan
    finite = math.isfinite(number)
    return {
        "task": task,
        "metric": metric,
        "value": number if finite else None,
        "stderr": None,
        "n": None,
        "limit": limit,
        "higher_is_better": None,
        "reason": None if finite else f"the value is not a finite number ({value})",
        "chance": None,
        "best": None,
    }


def _group_rows(found: Any, limit: int | None, metrics: Sequence[str] | None) -> list[Row]:
    """Give the averages that a group of tasks defines for itself."""
    rows = []
    for name, values in found.get("groups", {}).items():
        for key, value in values.items():
            metric, comma, filter_name = key.partition(",")
            wanted = metrics is None or metric in metrics
            if comma and not metric.endswith("_stderr") and wanted:
                label = metric if filter_name == "none" else key
                better = found["higher_is_better"].get(name, {}).get(metric)
                row = _metric_row(name, label, value, limit)
                rows.append(row | {"n": values.get("sample_len"), "higher_is_better": better})
    return rows


def _how(task: Task, metric: str) -> str:
    """Name the aggregation of a metric, such as "mean" or "weighted_perplexity"."""
    function = task.aggregation().get(metric)
    return getattr(function, "__name__", "mean")


def _chance(task: Task, documents: Sequence[Mapping[str, Any]]) -> float | None:
    """Give the accuracy of guessing: the mean of 1/choices; None for other kinds of task."""
    if task.OUTPUT_TYPE != "multiple_choice" or not documents:
        return None
    return math.fsum(1 / len(d["arguments"]) for d in documents) / len(documents)


def _samples(
    task: str, label: str, how: str, documents: Iterable[Mapping[str, Any]], metric: str
) -> list[Row]:
    """Give one row a document; none for metrics that are not sums over documents."""
    if how == "bits_per_byte" or metric == "byte_perplexity":
        return []  # the same nats as word_perplexity's
    rows = []
    for document in documents:
        value = document[metric]
        if how == "weighted_perplexity":
            label, value, weight = "nll", -value[0], value[1]
        elif how == "perplexity":
            label, value, weight = "nll", -value, 1
        elif how == "mean" and isinstance(value, int | float):
            weight = 1
        else:
            return []
        rows.append(
            {
                "task": task,
                "doc_id": str(document["doc_id"]),
                "metric": label,
                "value": float(value),
                "weight": float(weight),
            }
        )
    return rows


def stderr(how: str, items: Sequence[Any]) -> float | None:
    """Give the standard error of an aggregate in closed form, None where there is none.

    The mean's is exact; perplexities use the delta method on the (ratio of) means.

    Args:
        how: "mean", "perplexity", "weighted_perplexity" or "bits_per_byte".
        items: one value a document; for the last two (log-likelihood, weight) pairs.
    """
    n = len(items)
    if n < 2 or how not in ("mean", "perplexity", "weighted_perplexity", "bits_per_byte"):
        return None
    pairs = [i if isinstance(i, tuple | list) else (i, 1) for i in items]
    total, weight = math.fsum(v for v, _ in pairs), math.fsum(w for _, w in pairs)
    rate = total / weight
    squares = math.fsum((v - rate * w) ** 2 for v, w in pairs)
    error = math.sqrt(squares / (n - 1) / n) / (weight / n)
    if how == "mean":
        return error
    if how == "bits_per_byte":
        return error / math.log(2)
    try:
        return error * math.exp(-rate)
    except OverflowError:
        return None
