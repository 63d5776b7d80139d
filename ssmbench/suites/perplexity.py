"""Perplexity of a running text in fixed windows, as the pruning literature reports it.

Lines that are not blank are tokenized one by one without a beginning-of-text token and
joined; the text is cut into windows that do not overlap; each window predicts all of its
tokens but the first. The last window is as long as the text leaves it: its padding, which
the first paper's code scores, is not there.
"""

from __future__ import annotations

import functools
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from ssmbench.errors import DataError, NumericalError
from ssmbench.paths import is_file
from ssmbench.suites._overlay import HOW_TO_BRING
from ssmbench.suites._reduced import without_prompt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ssmbench.suites._context import Context, Result

VERSION = 1
KIND = "quality"
WIKITEXT_FILE = "wikitext-2-raw/wiki.test.raw"
WIKITEXT_TOKENS = 285_831
"""Of the test split with the GPT-NeoX tokenizer."""

TINYWORLD_TOKENS = 32_768
TINYWORLD_SEED = 0
TINYWORLD_LINE = 1024


class Params(BaseModel):
    """Which text, and how long a window is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field("wikitext", description="wikitext, tinyworld, or the path of a text file.")
    length: int = Field(2048, ge=2, description="Tokens of a window.")


def provides(params: Params) -> dict[str, Any]:
    """Give what else makes the numbers: for a file of the user's own, its content.

    Raises:
        DataError: the file does not exist.
    """
    if params.data == "tinyworld":
        from ssmbench.zoo import tinyworld

        return {"tinyworld": tinyworld.VERSION}
    if params.data == "wikitext":
        return {}
    return {"sha256": hashlib.sha256(_own_file(params.data).read_bytes()).hexdigest()}


def files(params: Params, data: Path | None) -> list[Path]:
    """Give the local files that are scored."""
    if params.data == "wikitext":
        return [] if data is None else [data / WIKITEXT_FILE]
    return [] if params.data == "tinyworld" else [Path(params.data)]


def tokens(params: Params, limit: int | None) -> int | None:
    """Estimate the tokens that a model runs over, for the plan's FLOPs."""
    known = {"wikitext": WIKITEXT_TOKENS, "tinyworld": TINYWORLD_TOKENS}
    total = known.get(params.data)
    windowed = None if limit is None else limit * params.length
    return windowed if total is None else min(total, windowed or total)


def run(context: Context, params: Params) -> Result:
    """Score the first `limit` windows, or all; one sample of "nll" a window.

    Null where the model drops tokens of prompts: a window has none.
    """
    from ssmbench.suites._context import Result

    name = params.data if params.data in ("wikitext", "tinyworld") else Path(params.data).stem
    if context.model.reducer is not None:
        row = without_prompt(name, "perplexity", limit=context.limit)
        return Result(metrics=[row | {"higher_is_better": False}])
    ids = token_ids(context.tokenizer, text_lines(params.data, context.data))
    cut = list(windows(ids, params.length))[: context.limit]
    if not cut:
        raise DataError(f"{params.data}: {len(ids)} tokens found; a window needs at least 2.")
    nats = score_windows(context, cut, name)
    weights = [len(window) - 1 for window in cut]
    result = Result(metrics=[metric_row(name, nats, weights, context.limit)])
    result.samples = [
        {"task": name, "doc_id": str(i), "metric": "nll", "value": value, "weight": float(weight)}
        for i, (value, weight) in enumerate(zip(nats, weights, strict=True))
    ]
    return result


def text_lines(data: str, folder: Path | None) -> list[str]:
    """Give the lines of a text, each with its line break.

    Args:
        data: "wikitext", "tinyworld" or a path.
        folder: the local data folder, where "wikitext" is looked for; None for the hub.

    Raises:
        DataError: the text cannot be found; the message says how to bring it.
    """
    if data == "tinyworld":
        return list(_tinyworld_lines())
    if data != "wikitext":
        return _lines(_own_file(data))
    if folder is None:
        return _wikitext_of_the_hub()
    path = folder / WIKITEXT_FILE
    if not is_file(path):
        raise DataError(f"{path}: this file is missing from the data folder. {HOW_TO_BRING}")
    return _lines(path)


def token_ids(tokenizer: PreTrainedTokenizerBase, lines: Sequence[str]) -> list[int]:
    """Tokenize the lines that are not blank one by one, and join."""
    kept = [line for line in lines if line.strip()]
    if not kept:
        return []
    return [i for ids in tokenizer(kept, add_special_tokens=False)["input_ids"] for i in ids]


def windows(ids: Sequence[int], length: int) -> Iterator[Sequence[int]]:
    """Cut without overlap; a last window of one token, which predicts nothing, is left out."""
    for start in range(0, len(ids) - 1, length):
        yield ids[start : start + length]


def score_windows(context: Context, cut: Sequence[Sequence[int]], name: str) -> list[float]:
    """Give the summed nats of each window's tokens after its first.

    Raises:
        NumericalError: a window's sum is not finite.
    """
    import torch

    from ssmbench.models.forest import Forest
    from ssmbench.suites._scoring import read

    nats: list[float] = []
    per_batch = max(1, context.batch_tokens // max(len(window) - 1 for window in cut))
    context.report(name, 0, len(cut))
    for first in range(0, len(cut), per_batch):
        batch = cut[first : first + per_batch]
        targets = [token for window in batch for token in window[1:]]
        with torch.inference_mode():
            forest = Forest.ragged([w[:-1] for w in batch], device=context.model.device)
            hidden, _ = context.model.hidden(forest, keep_state=False)
            scores, _ = read(context.model, hidden, range(len(targets)), targets)
        nats += [-float(s.sum()) for s in scores.split([len(w) - 1 for w in batch])]
        context.report(name, len(nats), len(cut))
    if not all(map(math.isfinite, nats)):
        raise NumericalError(f"{name}: the model's log-probabilities are not finite.")
    return nats


def metric_row(
    name: str, nats: Sequence[float], weights: Sequence[int], limit: int | None
) -> dict[str, Any]:
    """Give the row of a perplexity: exp(sum of nats / sum of weights), null beyond all floats.

    Args:
        name: the task.
        nats: of each window or document.
        weights: their tokens.
        limit: as in the row.
    """
    from ssmbench.suites._harness import stderr

    rate = math.fsum(nats) / sum(weights)
    value = math.exp(rate) if rate < 700 else None
    items = [(-n, w) for n, w in zip(nats, weights, strict=True)]
    return {
        "task": name,
        "metric": "perplexity",
        "value": value,
        "stderr": stderr("weighted_perplexity", items) if value else None,
        "n": len(nats),
        "limit": limit,
        "higher_is_better": False,
        "reason": None if value else f"exp of {rate:.0f} nats a token is beyond the largest float",
        "chance": None,
        "best": None,
    }


def _own_file(data: str) -> Path:
    path = Path(data)
    if not is_file(path):
        raise DataError(
            f"perplexity data '{data}': no such file; expected wikitext, tinyworld or a text file."
        )
    return path


def _lines(path: Path) -> list[str]:
    # Only "\n" ends a line: str.splitlines would also cut at characters inside a text.
    text = path.read_bytes().decode("utf-8")
    return [line + "\n" for line in text.split("\n")]


@functools.cache
def _tinyworld_lines() -> tuple[str, ...]:
    """Tell the stories, once a process."""
    from ssmbench.zoo import tinyworld

    words = tinyworld.text("evaluation", TINYWORLD_TOKENS, TINYWORLD_SEED).split(" ")
    starts = range(0, len(words), TINYWORLD_LINE)
    return tuple(" ".join(words[i : i + TINYWORLD_LINE]) for i in starts)


def _wikitext_of_the_hub() -> list[str]:
    import datasets

    name = "Salesforce/wikitext"
    try:
        found = datasets.load_dataset(name, "wikitext-2-raw-v1", split="test")
    except (OSError, ValueError) as why:
        raise DataError(
            f"perplexity: {name} could not be read ({type(why).__name__}: {why}). {HOW_TO_BRING}"
        ) from why
    return list(found["text"])
