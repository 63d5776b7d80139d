"""TinyWorld's tasks: lm-eval reads them, their answers are true, their best and chance are so."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from test_zoo_tinyworld import Reader, read_all

from ssmbench.zoo import tasks, tinyworld

if TYPE_CHECKING:
    from pathlib import Path

Answer = Callable[[str, str], float]


def told_of(document: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each way in which a document can go on, as whole text, and whether it is the right one."""
    if "contexts" in document:
        ways = [f"{context} {document['target']}" for context in document["contexts"]]
    elif "choices" in document:
        ways = [f"{document['context']} {choice}" for choice in document["choices"]]
    else:
        ways = [f"{document['context']} {place}" for place in tinyworld.PLACES]
        return [(way, way.endswith(" " + document["target"])) for way in ways]
    return [(way, i == document["answer"]) for i, way in enumerate(ways)]


def is_true(text: str) -> bool:
    """Read a story from its text and judge its last sentence."""
    *story, last = text.removesuffix(" .").split(" . ")
    reader: Reader = read_all(" . ".join(story))
    told = reader.read(last)
    assert told is not None
    return told


def documents_of(task: str) -> list[dict[str, Any]]:
    return tasks.documents(task, n=150, seed=0)


@pytest.mark.parametrize("task", tasks.MAKERS)
def test_exactly_the_right_choice_of_each_document_is_true(task: str) -> None:
    for document in documents_of(task):
        for text, right in told_of(document):
            answer = f"{text.split(' ? ')[-1]}" if task.startswith("tw_facts") else ""
            assert len(answer.split()) <= 1
            assert is_true(text) is right, text


@pytest.mark.parametrize("task", tasks.MAKERS)
def test_documents_are_short_different_and_in_the_vocabulary(task: str) -> None:
    documents = documents_of(task)
    texts = [text for document in documents for text, _ in told_of(document)]
    assert max(len(text.split()) for text in texts) <= 120
    assert {word for text in texts for word in text.split()} <= set(tinyworld.vocabulary())
    assert len({str(document) for document in documents}) == len(documents)
    assert documents[:20] == tasks.documents(task, n=20, seed=0)
    assert documents[:20] != tasks.documents(task, n=20, seed=1)


@pytest.mark.parametrize("task", [task for task in tasks.MAKERS if task != "tw_last_word"])
def test_the_place_of_the_answer_says_nothing(task: str) -> None:
    documents = tasks.documents(task, n=400, seed=0)
    n_choices = len(told_of(documents[0]))
    for place in range(n_choices):
        share = sum(document["answer"] == place for document in documents) / len(documents)
        # Four standard errors of a fair draw: one false alarm in 16,000.
        assert abs(share - 1 / n_choices) < 4 * (1 / n_choices * (1 - 1 / n_choices) / 400) ** 0.5


def evaluate(folder: Path, answer: Answer, n: int) -> dict[str, float]:
    """Run lm-eval's own evaluator on all six with a model that scores by `answer`."""
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Fake(LM):  # type: ignore[misc]
        def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            scores = [answer(*request.args) for request in requests]
            return [(score, score >= 0) for score in scores]

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            raise AssertionError("no task of the zoo asks for the likelihood of whole texts")

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            raise AssertionError("no task of the zoo asks for text")

    configs = tasks.task_configs(folder, n=n, seed=0)
    found = lm_eval.simple_evaluate(
        Fake(),
        tasks=list(configs.values()),
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
    )
    return {task: found["results"][task]["acc,none"] for task in configs}


@pytest.mark.filterwarnings("ignore")
def test_an_oracle_gets_the_best_score_and_a_guesser_chance(tmp_path: Path) -> None:
    def oracle(context: str, target: str) -> float:
        return 0.0 if is_true(context + target) else -1.0

    best = evaluate(tmp_path, oracle, n=40)
    assert best == {task: known.best for task, known in tasks.KNOWN.items()}

    rng = random.Random(0)
    guess = evaluate(tmp_path, lambda *_: rng.random() - 0.9, n=300)
    for task, known in tasks.KNOWN.items():
        error = (known.chance * (1 - known.chance) / 300) ** 0.5
        assert abs(guess[task] - known.chance) < 4 * error, task
