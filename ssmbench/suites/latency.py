"""Time of prefill and of decoding steps: the compressed and the dense model take turns.

Both are in one process on one device. Each repeat times one, then the other, and the order
alternates, so that a slow drift of the machine's clock meets both alike. Prefill reads a
prompt and gives the logits after it; a decoding step reads one token and its state and
gives the logits of the next.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.state import State
    from ssmbench.suites._context import Context, Result
else:
    from ssmbench.lazy import torch

VERSION = 1
KIND = "timing"

Shape = tuple[int, int]
Work = Callable[[], object]


class Params(BaseModel):
    """What is timed, and how often; shapes are [batch, length] pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefill: tuple[Shape, ...] = Field(
        ((1, 512), (4, 512)), description="Prompts: how many at once, and their tokens."
    )
    decode: tuple[Shape, ...] = Field(
        ((1, 512),), description="Sequences at once, and the tokens before the timed steps."
    )
    decode_steps: int = Field(16, ge=1, description="Steps of which one repeat is the mean.")
    warmup: int = Field(2, ge=0, description="Untimed repeats.")
    repeats: int = Field(10, ge=2, description="Timed repeats.")


def provides(params: Params) -> dict[str, Any]:
    """Give what else makes the numbers; the plan adds the device's name to timing suites."""
    del params
    return {}


def tokens(params: Params, limit: int | None) -> int | None:
    """Estimate the tokens that both models run over, for the plan's FLOPs."""
    del limit
    rounds = 2 * (params.warmup + params.repeats)
    prefill = sum(batch * length for batch, length in params.prefill)
    steps = sum(batch * params.decode_steps for batch, _ in params.decode)
    prompts = sum(batch * length for batch, length in params.decode)
    return rounds * (prefill + steps) + 2 * prompts


def run(context: Context, params: Params) -> Result:
    """Time every shape; one latency row each."""
    from ssmbench.suites._context import Result

    dense = context.dense()
    models = (context.model, dense)
    total = len(params.prefill) + len(params.decode)
    result = Result()
    with torch.inference_mode():
        for phase, shapes in (("prefill", params.prefill), ("decode", params.decode)):
            for batch, length in shapes:
                context.report(f"{phase} {batch}×{length}", len(result.latency), total)
                ids = _token_ids(context, dense, batch, length)
                steps = params.decode_steps if phase == "decode" else 1
                works = [_work(phase, model, ids, steps) for model in models]
                times = take_turns(works, context.model.device, params.warmup, params.repeats)
                mine, theirs = ([t / steps for t in each] for each in times)
                n_tokens = batch if phase == "decode" else batch * length
                row = {"phase": phase, "batch": batch, "length": length}
                peak = _peak_memory_bytes(works[0], context.model.device, dense)
                row |= summary(mine, theirs, n_tokens) | {"peak_memory_bytes": peak}
                result.latency.append(row)
    context.report("latency", total, total)
    return result


def take_turns(
    works: Sequence[Work], device: torch.device, warmup: int, repeats: int
) -> list[list[float]]:
    """Time each piece of work `repeats` times, in turns whose order alternates.

    Returns:
        Seconds of every repeat, one list a piece of work.
    """
    times: list[list[float]] = [[] for _ in works]
    for turn in range(warmup + repeats):
        order = list(enumerate(works))
        for i, work in order if turn % 2 == 0 else reversed(order):
            seconds = _timed(work, device)
            if turn >= warmup:
                times[i].append(seconds)
    return times


def summary(mine: Sequence[float], dense: Sequence[float], n_tokens: int) -> dict[str, Any]:
    """Give the figures of a latency row from the raw seconds of both models."""
    median, dense_median = statistics.median(mine), statistics.median(dense)
    tenths = statistics.quantiles(mine, n=10, method="inclusive")
    return {
        "median_s": median,
        "dense_median_s": dense_median,
        "speedup": dense_median / median,
        "p10_s": tenths[0],
        "p90_s": tenths[-1],
        "n": len(mine),
        "tokens_per_s": n_tokens / median,
        "raw_s": list(mine),
        "dense_raw_s": list(dense),
    }


def _token_ids(context: Context, dense: Decoder, batch: int, length: int) -> torch.Tensor:
    """Draw (batch, length) random tokens that both models know."""
    vocabulary = min(m.description.vocab_size for m in (context.model, dense))
    draw = torch.Generator().manual_seed(context.seed)
    return torch.randint(vocabulary, (batch, length), generator=draw).to(context.model.device)


def _work(phase: str, model: Decoder, ids: torch.Tensor, steps: int) -> Work:
    if phase == "prefill":
        return lambda: _prefill(model, ids)
    state, token = _prefill(model, ids)
    return lambda: _decode(model, token, state, steps)


def _prefill(model: Decoder, ids: torch.Tensor) -> tuple[State, torch.Tensor]:
    """Read prompts (batch, length); gives the state and the likeliest next tokens."""
    from ssmbench.models.forest import Forest

    # Where the model drops tokens, it does so of these; the decoding steps run densely.
    hidden, state = model.hidden(replace(Forest.batch(ids), prompted=True))
    last = hidden.view(*ids.shape, -1)[:, -1]
    return state, model.logits(last).argmax(-1)


def _decode(model: Decoder, token: torch.Tensor, state: State, steps: int) -> None:
    """Say `steps` tokens greedily, each from the one before."""
    from ssmbench.models.forest import Forest

    for _ in range(steps):
        hidden, state = model.hidden(Forest.batch(token[:, None]), state)
        token = model.logits(hidden).argmax(-1)


def _timed(work: Work, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    """Let the device finish: its work is only queued by the calls above."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory_bytes(work: Work, device: torch.device, dense: Decoder) -> int | None:
    """Give the most memory that the compressed model's work held, weights included.

    The dense model's weights, which only the comparison needs, are taken off. None where
    the device does not tell.
    """
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    _timed(work, device)
    weights = {p.data_ptr(): p.numel() * p.element_size() for p in dense.parameters()}
    return int(torch.cuda.max_memory_allocated(device)) - sum(weights.values())
