"""Perplexity of one snippet of a long text after more and more of what stands before it.

The snippet begins where the longest context fits before it, so it is the same for all lengths,
and for all models with one tokenizer. The context is the prompt, of which a method may drop
tokens; of the snippet none is dropped. Each length is a task of its own.

Source: Simba, arXiv:2505.20698, figure 4: 100 tokens, PG-19's test books. Where a snippet begins
and which lengths there are is not stated there (2k and 4k are among them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ssmbench.errors import DataError
from ssmbench.suites import _texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ssmbench.suites._context import Context, Result

VERSION = 1
KIND = "quality"


class Params(BaseModel):
    """Which texts, how much context, and what is scored after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field("pg19", description=f"Texts: {_texts.DATA}")
    contexts: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (512, 1024, 2048, 3072, 4096), min_length=1, description="Tokens before the snippet."
    )
    snippet: int = Field(100, ge=1, description="Tokens that are scored.")
    n: int = Field(
        100, ge=1, description="Texts, the first by name; those too short for a snippet are not in."
    )
    windows: int = Field(
        1,
        ge=1,
        description="Snippets of each text: the first, and others at equal distances to its end.",
    )


class Window(NamedTuple):
    """A snippet with the longest context before it."""

    name: str
    context: list[int]
    snippet: list[int]


def provides(params: Params) -> dict[str, Any]:
    """Give what else makes the numbers: for texts of the user's own, their content."""
    return _texts.provides(params.data)


def files(params: Params, data: Path | None) -> list[Path]:
    """Give the local files that are scored."""
    return _texts.files(params.data, data)


def tokens(params: Params, limit: int | None) -> int | None:
    """Estimate the tokens that a model runs over, for the plan's FLOPs."""
    each = sum(params.contexts) + len(params.contexts) * params.snippet
    return _texts.count(params.data, params.n, limit) * params.windows * each


def run(context: Context, params: Params) -> Result:
    """Score the snippets after each length of context, the first `limit` texts or all."""
    from ssmbench.suites._context import Result

    found = list(windows(context, params))
    if not found:
        needed = max(params.contexts) + params.snippet
        raise DataError(
            f"{params.data}: no text has the {needed} tokens of context and snippet. Choose longer"
            " texts, or shorter `contexts`."
        )
    result = Result()
    for length in params.contexts:
        result.extend(_after(context, found, length))
    return result


def windows(context: Context, params: Params) -> Iterator[Window]:
    """Cut the snippets, each with its longest context, from texts that are long enough."""
    longest = max(params.contexts)
    needed = longest + params.snippet
    found = _texts.texts(
        params.data,
        context.data,
        n=min(params.n, context.limit or params.n),
        length=needed if params.windows == 1 else needed + params.windows * params.snippet,
    )
    for text in found:
        read = needed if params.windows == 1 else None
        ids = _texts.beginning(context.tokenizer, text.text, read)
        if len(ids) < needed:
            continue
        for i in range(params.windows):
            end = needed + (len(ids) - needed) * i // params.windows
            start = end - params.snippet
            name = text.name if params.windows == 1 else f"{text.name}.{i}"
            yield Window(name, ids[start - longest : start], ids[start:end])


def _after(context: Context, found: Sequence[Window], length: int) -> Result:
    """Score all snippets after their last `length` tokens of context."""
    from ssmbench.suites._context import Result
    from ssmbench.suites._costs import cost_rows
    from ssmbench.suites._lm import DecoderLM
    from ssmbench.suites._reduced import layer_rows
    from ssmbench.suites.perplexity import metric_row

    task = f"context_{length}"
    lm = DecoderLM(
        context.model,
        context.tokenizer,
        batch_tokens=context.batch_tokens,
        max_length=length + len(found[0].snippet),
        report=context.report,
    )
    pairs = [(w.context[-length:], w.snippet) for w in found]
    with layer_rows(context.model) as layers:
        nats = [-score for score in lm.score(task, pairs)]
    weights = [len(w.snippet) for w in found]
    result = Result(metrics=[metric_row(task, nats, weights, context.limit)])
    result.metrics += cost_rows(context, task, lm.lengths[task])
    result.samples = [
        {"task": task, "doc_id": w.name, "metric": "nll", "value": value, "weight": float(weight)}
        for w, value, weight in zip(found, nats, weights, strict=True)
    ]
    result.layers = [{**row, "place": task} for row in layers]
    return result
