"""What suites do besides where the model drops tokens of prompts."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssmbench.models.decoder import Decoder
    from ssmbench.suites._context import Row

NO_PROMPT = "token pruning acts on prompts; this text is scored from its first token and has none"


@contextmanager
def layer_rows(model: Decoder) -> Iterator[list[Row]]:
    """Give a list in which, at the end, rows of `Result.layers` say which tokens were dropped.

    It stays empty where the model drops none.
    """
    if model.reducer is None:
        yield []
        return
    with model.reducer.accounted() as rows:
        yield rows


def without_prompt(task: str, metric: str, *, limit: int | None) -> Row:
    """Give the metrics row of a text that no token can be dropped of: null, with the reason."""
    return {
        "task": task,
        "metric": metric,
        "value": None,
        "stderr": None,
        "n": None,
        "limit": limit,
        "higher_is_better": None,
        "reason": NO_PROMPT,
        "chance": None,
        "best": None,
    }
