"""Any tasks of lm-eval that score given text, with any number of shots."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from ssmbench.suites._overlay import scored_files

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.suites._context import Context, Result

VERSION = 1
KIND = "quality"


class Params(BaseModel):
    """Tasks, groups or tags of lm-eval by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[str, ...] = Field(min_length=1, description="Names as lm-eval lists them.")
    shots: int | None = Field(0, ge=0, description="Examples in each prompt; null = the task's.")
    metrics: tuple[str, ...] | None = Field(None, description="Keep these only; null = all.")


def provides(params: Params) -> dict[str, Any]:
    """Give what else makes the numbers: lm-eval's version, which fixes prompts and metrics."""
    del params
    return {"lm_eval": version("lm-eval")}


def files(params: Params, data: Path | None) -> list[Path]:
    """Give the local files that are scored."""
    return scored_files(params.tasks, data)


def run(context: Context, params: Params) -> Result:
    """Score the tasks with the metrics that their own files name."""
    from ssmbench.suites._harness import score_tasks

    return score_tasks(context, params.tasks, shots=params.shots, metrics=params.metrics)
