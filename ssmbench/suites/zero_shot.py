"""The first paper's six tasks, zero-shot, plain accuracy, by lm-eval.

Source: "On Pruning State-Space LLMs", section 4: lambada_openai, hellaswag, piqa, arc_easy,
arc_challenge and winogrande, metric `acc` for all (not acc_norm), and their plain mean.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssmbench.suites._overlay import scored_files

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.suites._context import Context, Result

VERSION = 1
KIND = "quality"
SIZES = {
    "lambada_openai": (5153, 80.2),
    "hellaswag": (10042, 165.3),
    "piqa": (1838, 48.8),
    "arc_easy": (2376, 40.5),
    "arc_challenge": (1172, 49.9),
    "winogrande": (1267, 27.3),
}
"""Documents, and mean tokens of one with shared beginnings run once (GPT-NeoX tokenizer)."""

Task = Literal["lambada_openai", "hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande"]
SIX: tuple[Task, ...] = (
    "lambada_openai",
    "hellaswag",
    "piqa",
    "arc_easy",
    "arc_challenge",
    "winogrande",
)


class Params(BaseModel):
    """Which of the six tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[Task, ...] = Field(SIX, min_length=1, description="All six by default.")


def provides(params: Params) -> dict[str, Any]:
    """Give what else makes the numbers: lm-eval's version, which fixes prompts and metrics."""
    del params
    return {"lm_eval": version("lm-eval")}


def files(params: Params, data: Path | None) -> list[Path]:
    """Give the local files that are scored."""
    return scored_files(params.tasks, data)


def tokens(params: Params, limit: int | None) -> int | None:
    """Estimate the tokens that a model runs over, for the plan's FLOPs."""
    sizes = [SIZES[task] for task in params.tasks]
    return round(sum(min(n, limit or n) * each for n, each in sizes))


def run(context: Context, params: Params) -> Result:
    """Score the tasks; one row of `acc` a task, one sample a document."""
    from ssmbench.suites._harness import score_tasks

    known = {"lambada_openai": {"chance": 0.0}}
    return score_tasks(context, params.tasks, shots=0, metrics=("acc",), known=known)
