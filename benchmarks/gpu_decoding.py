"""Decoding steps one by one and as a CUDA graph: the same tokens and logits, and their times."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from ssmbench.kernels import backends
from ssmbench.models.decoding import Steps, captured, why_not
from ssmbench.models.forest import Forest
from ssmbench.suites._latency_work import decode, prefill
from ssmbench.suites._timing import take_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssmbench.models.decoder import Decoder

COMPARED = 16


def compare(
    model: Decoder, device: str, *, batch: int, length: int, steps: int, repeats: int
) -> dict[str, Any]:
    """Decode both ways after random prompts; gives times of a step in turns, and differences.

    Args:
        model: without attention, on its device.
        device: its name, for the backend.
        batch: prompts at once.
        length: tokens of each.
        steps: of each turn.
        repeats: turns.
    """
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(model.description.vocab_size, (batch, length), generator=draw)
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    why = why_not(model)
    with (
        backends.using("auto", device, dtype),
        backends.recording() as used,
        torch.inference_mode(),
    ):
        state, token = prefill(model, ids.to(device))
        expected = _plain(model, token, state)
        ours = Steps(model, token, state)
        start = time.perf_counter()
        advance: Callable[[], Any] = ours.advance
        if why is None:
            advance = captured(ours.advance, model.device)
        seconds = time.perf_counter() - start
        ours.restart(token, state)
        error, agreed = _difference(ours, advance, expected)
        ours.restart(token, state)

        def graph() -> torch.Tensor:
            for _ in range(steps):
                advance()
            return ours.token

        works = [lambda: decode(model, token, state, steps), graph]
        times = take_turns(works, model.device, warmup=1, repeats=repeats)
    plain_s, graph_s = ([took.device_s / steps for took in t.timed] for t in times)
    return {
        "batch": batch,
        "length": length,
        "graph": why or "captured",
        "capture_s": None if why else seconds,
        "plain_s": plain_s,
        "graph_s": graph_s,
        "ratio": statistics.median(p / g for p, g in zip(plain_s, graph_s, strict=True)),
        "tokens_per_s": batch / statistics.median(graph_s),
        "steps_compared": agreed,
        "logits_error": error,
        "backend": used.text,
    }


def _plain(
    model: Decoder, token: torch.Tensor, state: Any
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Give the tokens and logits of some plain steps."""
    said = []
    for _ in range(COMPARED):
        hidden, state = model.hidden(Forest.batch(token[:, None]), state)
        logits = model.logits(hidden)
        token = logits.argmax(-1)
        said.append((token, logits))
    return said


def _difference(
    ours: Steps, advance: Callable[[], Any], expected: list[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[float, int]:
    """Give the logits' largest difference as a part of their deviation, and over how many steps.

    From the first token on that differs, what is read differs.
    """
    worst = 0.0
    for n, (token, logits) in enumerate(expected, start=1):
        advance()
        worst = max(worst, float((ours.logits - logits).abs().max() / logits.std()))
        if not torch.equal(ours.token, token):
            return worst, n
    return worst, len(expected)
