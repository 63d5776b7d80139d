"""Simba's six tasks with examples in the prompt, each with the paper's shots and metric.

Every model sees the same examples (seed 1234): they come from the train split, and for LAMBADA,
which has none, from the documents that are scored. There lm-eval 0.4.13 puts two blanks before an
example's last word, and does not keep a document from being its own example (with this seed three
of the 5,153 are: 778, 1831 and 2236); its prompts are kept as they are.

Source: Simba, arXiv:2505.20698, appendix A.1. Its mean over the six takes LAMBADA's accuracy.
"""

from __future__ import annotations

import functools
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ssmbench.suites._overlay import scored_files
from ssmbench.zoo import tinyworld

if TYPE_CHECKING:
    from ssmbench.suites._context import Context, Result

VERSION = 1
KIND = "quality"

Task = Literal["lambada_openai", "hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande"]


class Setting(NamedTuple):
    """How a task is asked, and how much of it there is.

    Attributes:
        shots: examples in each prompt.
        metrics: what is kept of lm-eval's.
        documents: that are scored.
        tokens: of one with all its choices, the prompt run once (GPT-NeoX tokenizer).
    """

    shots: int
    metrics: tuple[str, ...]
    documents: int
    tokens: float


SETTINGS: dict[Task, Setting] = {
    "lambada_openai": Setting(5, ("acc", "perplexity"), 5153, 506),
    "hellaswag": Setting(10, ("acc_norm",), 10042, 985),
    "piqa": Setting(5, ("acc",), 1838, 253),
    "arc_easy": Setting(25, ("acc",), 2376, 891),
    "arc_challenge": Setting(25, ("acc_norm",), 1172, 1009),
    "winogrande": Setting(5, ("acc",), 1267, 151),
}
SIX: tuple[Task, ...] = tuple(SETTINGS)

TINYWORLD_SHOTS, TINYWORLD_N, TINYWORLD_TOKENS = 2, 200, 300
EXAMPLES_SEED = 1


class Params(BaseModel):
    """Which tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[Task, ...] | Literal["tinyworld"] = Field(
        SIX, description="Some of the six; or tinyworld, that language's own six with two shots."
    )


def provides(params: Params) -> dict[str, Any]:
    """Give what else makes the numbers: lm-eval's version, which fixes prompts and metrics."""
    own = {"tinyworld": tinyworld.VERSION} if params.tasks == "tinyworld" else {}
    return {"lm_eval": version("lm-eval"), **own}


def files(params: Params, data: Path | None) -> list[Path]:
    """Give the local files that are scored."""
    return [] if params.tasks == "tinyworld" else scored_files(params.tasks, data)


def tokens(params: Params, limit: int | None) -> int | None:
    """Estimate the tokens that a model runs over, for the plan's FLOPs."""
    if params.tasks == "tinyworld":
        return 6 * min(TINYWORLD_N, limit or TINYWORLD_N) * TINYWORLD_TOKENS
    chosen = [SETTINGS[task] for task in params.tasks]
    return round(sum(min(s.documents, limit or s.documents) * s.tokens for s in chosen))


def run(context: Context, params: Params) -> Result:
    """Score the tasks; also rows for the tokens of prompts and answers, and for their FLOPs."""
    from ssmbench.suites._context import Result
    from ssmbench.suites._harness import score_tasks
    from ssmbench.zoo import tasks as tiny

    result = Result()
    if params.tasks == "tinyworld":
        for name, config in _tiny().items():
            known = {name: tiny.KNOWN[name]._asdict()}
            found = score_tasks(
                context,
                (name,),
                shots=TINYWORLD_SHOTS,
                configs={name: config},
                known=known,
                costs=True,
            )
            result.extend(_placed(found, name))
        return result
    for task in params.tasks:
        setting = SETTINGS[task]
        known = {"lambada_openai": {"chance": 0.0}}
        found = score_tasks(
            context,
            (task,),
            shots=setting.shots,
            metrics=setting.metrics,
            known=known,
            costs=True,
        )
        result.extend(_placed(found, task))
    return result


def _placed(found: Result, task: str) -> Result:
    """Say of which task a result's rows of layers are."""
    found.layers = [{**row, "place": task} for row in found.layers]
    return found


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ssmbench-few-shot-")


@functools.cache
def _tiny() -> dict[str, dict[str, Any]]:
    """Write TinyWorld's documents and examples; give its tasks, whose prompts read as its text."""
    from ssmbench.zoo import tasks as tiny

    found = {}
    for split, n, seed in (("train", 100, EXAMPLES_SEED), ("test", TINYWORLD_N, 0)):
        folder = Path(_folder().name) / split
        folder.mkdir()
        found[split] = tiny.task_configs(folder, n=n, seed=seed)
    for name, config in found["test"].items():
        examples = found["train"][name]["dataset_kwargs"]["data_files"]["test"]
        config["dataset_kwargs"]["data_files"]["train"] = examples
        config["training_split"] = "train"
        config["fewshot_delimiter"] = f" {tinyworld.EOS} "
    return found["test"]
