"""Accuracy on TinyWorld's six tasks: for the zoo's models, with no data from outside."""

from __future__ import annotations

import functools
import importlib.metadata
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from ssmbench.zoo import tinyworld

if TYPE_CHECKING:
    from ssmbench.suites._context import Context, Result

VERSION = 1
KIND: Literal["quality", "timing"] = "quality"


class Params(BaseModel, frozen=True, extra="forbid"):
    """How many documents each task has, and which: another seed makes other documents."""

    n: int = Field(200, ge=1)
    seed: int = 0


def provides(params: Params) -> dict[str, Any]:
    """Name what else the numbers depend on: the language's version and lm-eval's."""
    return {"tinyworld": tinyworld.VERSION, "lm_eval": importlib.metadata.version("lm_eval")}


def run(context: Context, params: Params) -> Result:
    """Score the six tasks; each row carries a guesser's score and the best possible one."""
    from ssmbench.suites._harness import score_tasks
    from ssmbench.zoo import tasks

    configs = _documents().configs(params)
    known = {task: values._asdict() for task, values in tasks.KNOWN.items()}
    return score_tasks(context, list(configs), shots=0, configs=configs, known=known)


class _Documents:
    """The tasks' files, made once a process: the harness then loads them once, too."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ssmbench-tinyworld-")
        self._made: dict[Params, dict[str, dict[str, Any]]] = {}

    def configs(self, params: Params) -> dict[str, dict[str, Any]]:
        from ssmbench.zoo import tasks

        if params not in self._made:
            folder = Path(self._folder.name) / f"{params.n}-{params.seed}"
            folder.mkdir()
            self._made[params] = tasks.task_configs(folder, n=params.n, seed=params.seed)
        return self._made[params]


@functools.cache
def _documents() -> _Documents:
    return _Documents()
