"""WikiText-2 perplexity as lm-eval's `wikitext` task has it: by page, per word and per byte.

Not comparable with `perplexity`: this one undoes the data set's tokenisation, counts words
of the original page, and begins each page anew.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ssmbench.suites._overlay import scored_files

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.suites._context import Context, Result

VERSION = 1
KIND = "quality"
PAGES, PAGE_TOKENS = 62, 4471
"""Pages of the test split, and their mean tokens (GPT-NeoX tokenizer)."""


class Params(BaseModel):
    """Nothing to choose."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def provides(params: Params) -> dict[str, Any]:
    """Give what else makes the numbers: lm-eval's version, which fixes the task."""
    del params
    return {"lm_eval": version("lm-eval")}


def files(params: Params, data: Path | None) -> list[Path]:
    """Give the local files that are scored."""
    del params
    return scored_files(("wikitext",), data)


def tokens(params: Params, limit: int | None) -> int | None:
    """Estimate the tokens that a model runs over, for the plan's FLOPs."""
    del params
    return min(PAGES, limit or PAGES) * PAGE_TOKENS


def run(context: Context, params: Params) -> Result:
    """Score the pages; rows for word_perplexity, byte_perplexity and bits_per_byte."""
    del params
    from ssmbench.suites._harness import score_tasks

    return score_tasks(context, ("wikitext",), shots=0)
