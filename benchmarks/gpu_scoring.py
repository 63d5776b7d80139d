"""The six tasks' requests by their lengths alone, scored as lm-eval's HFLM does and as we do.

Both run one model on the same kernels, so the ratio is that of the ways: HFLM groups requests that
differ in their last token only, runs each choice with its whole context, padded on the right, in
batches of 64, and takes the head and the log softmax on every position; we run what choices share
once and the head where a continuation is predicted.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ssmbench.kernels import backends
from ssmbench.suites._scoring import batch_scores
from ssmbench.suites._tree import batches, make_row, plant, shared_prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssmbench.models.decoder import Decoder

LENGTHS = Path(__file__).parent / "task_lengths.json"
BATCH = 64  # HFLM's
BATCH_TOKENS = 16384  # ours
REPEATS = 3


class Request(NamedTuple):
    """Tokens of a context and of its continuation."""

    context: list[int]
    continuation: list[int]


def compare(model: Decoder, device: str, *, n: int) -> list[dict[str, Any]]:
    """Score n documents of each task both ways, in turns.

    Args:
        model: on its device.
        device: its name, for the backend.
        n: documents of each task; at most as many as the file of lengths has.
    """
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    rows = []
    with backends.using("auto", device, dtype), torch.inference_mode():
        for task, lengths in json.loads(LENGTHS.read_text()).items():
            requests = draw(lengths[:n], model.description.vocab_size)
            about = {"task": task, "documents": len(lengths[:n])}
            with backends.recording() as used:
                rows.append(about | _turns(model, requests))
            rows[-1]["backend"] = used.text
    return rows


def draw(documents: Sequence[dict[str, Any]], vocabulary: int, *, seed: int = 0) -> list[Request]:
    """Draw random tokens for documents: all requests of one begin alike, then differ."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(count: int) -> list[int]:
        drawn: list[int] = torch.randint(vocabulary, (count,), generator=generator).tolist()
        return drawn

    requests = []
    for document in documents:
        shared = tokens(document["shared"])
        for n_context, n_continuation in document["requests"]:
            rest = tokens(max(0, n_context + n_continuation - len(shared)))
            row = (shared + rest)[: n_context + n_continuation]
            requests.append(Request(row[:n_context], row[n_context:]))
    return requests


def _turns(model: Decoder, requests: list[Request]) -> dict[str, Any]:
    """Score requests both ways in turns, after one of each; gives medians and their ratio."""
    times: dict[str, list[float]] = {"ours": [], "hflm": []}
    scores: dict[str, torch.Tensor] = {}
    ways = {"ours": ours, "hflm": hflm}
    for turn in range(REPEATS + 1):
        for name in ways if turn % 2 else reversed(ways):
            _wait(model)
            start = time.perf_counter()
            scores[name] = ways[name](model, requests)
            _wait(model)
            if turn:
                times[name].append(time.perf_counter() - start)
    medians = {name: sorted(t)[len(t) // 2] for name, t in times.items()}
    return {
        "n_requests": len(requests),
        "ours_s": medians["ours"],
        "hflm_s": medians["hflm"],
        "ratio": medians["hflm"] / medians["ours"],
        "raw_s": times,
        "max_difference_nats": float((scores["ours"] - scores["hflm"]).abs().max()),
    }


def ours(model: Decoder, requests: list[Request]) -> torch.Tensor:
    """Score by trees; gives (requests,) nats."""
    rows = [make_row(i, r.context, r.continuation, 2048) for i, r in enumerate(requests)]
    found = torch.empty(len(requests), dtype=torch.float64)
    trees = plant(rows, fork_point=shared_prefix, budget=BATCH_TOKENS)
    for batch in batches(trees, budget=BATCH_TOKENS):
        nats, _ = batch_scores(model, batch)
        numbers = [r.number for tree in batch for row in tree.rows for r in row.requests]
        found[numbers] = nats
    return found


def hflm(model: Decoder, requests: list[Request]) -> torch.Tensor:
    """Score as HFLM 0.4.13 does; gives (requests,) nats."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (context, continuation) in enumerate(requests):
        groups.setdefault((*context, *continuation[:-1]), []).append(i)
    order = sorted(groups, key=len, reverse=True)
    found = torch.empty(len(requests), dtype=torch.float64)
    for start in range(0, len(order), BATCH):
        inputs = order[start : start + BATCH]
        width = len(inputs[0])
        ids = torch.zeros(len(inputs), width, dtype=torch.long)
        for row, tokens in zip(ids, inputs, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        logs = torch.log_softmax(model(ids.to(model.device)), -1)
        for row, tokens in zip(logs, inputs, strict=True):
            for i in groups[tokens]:
                target = torch.tensor(requests[i].continuation, device=logs.device)
                spots = row[len(tokens) - len(target) : len(tokens)]
                found[i] = spots.gather(1, target[:, None]).sum().double().cpu()
    return found


def _wait(model: Decoder) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
