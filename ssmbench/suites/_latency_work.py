"""What the latency suite times: prompts that are read, and tokens that are said, one by one."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ssmbench.suites._latency_row import Ready
from ssmbench.suites._memory import needed, weights_bytes
from ssmbench.suites._timing import timed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.decoding import Steps
    from ssmbench.models.state import State
    from ssmbench.suites._timing import Work

CAPTURED = "captured"


class CaptureFailed(Exception):
    """A decoding step could not be captured as a CUDA graph: the message says why."""


def how(phase: str, graphs: Literal["auto", "off"], model: Decoder, dense: Decoder) -> str | None:
    """Say how decoding steps are to run: CAPTURED, or why plainly; None of prefill."""
    from ssmbench.models.decoding import why_not

    if phase != "decode":
        return None
    if graphs == "off":
        return "plain: graphs are off"
    if (reason := why_not(model)) is not None:
        return f"plain: {reason}"
    # A model without attention beside one with it: what is compared must run alike.
    reason = why_not(dense)
    return CAPTURED if reason is None else f"plain, as the dense model: {reason}"


def prepared(phase: str, model: Decoder, ids: Tensor, steps: int, *, graph: bool) -> Ready:
    """Make a model's work on prompts (batch, length), and run it twice, or a few times more.

    Args:
        phase: "prefill" or "decode".
        model: on its device.
        ids: on the host.
        steps: decoding steps of one call.
        graph: capture a step as a CUDA graph, in which each call's steps run.

    Raises:
        CaptureFailed: that cannot be.
    """
    device = model.device
    made: list[tuple[State, Tensor]] = []

    def first_prompt() -> Tensor:
        made.append(prefill(model, ids.to(device)))
        return made[-1][1]

    first = timed(first_prompt, device)
    state, token = made.pop()
    if phase != "decode":
        state_bytes = state.n_bytes
        del state, token
        return _seen(model, lambda: prefill(model, ids.to(device))[1], first.wall_s, state_bytes)
    if graph:
        return _graphed(model, token, state, steps)

    def work() -> Tensor:
        return decode(model, token, state, steps)

    first = timed(work, device)
    return _seen(model, work, first.wall_s, state.n_bytes, held_bytes=state.n_bytes)


def _graphed(model: Decoder, token: Tensor, state: State, n: int) -> Ready:
    """Make steps on buffers: seen as they are, timed as a graph, from the same state on."""
    from ssmbench.models.decoding import CaptureError, Steps, captured

    device = model.device
    made: list[Steps] = []

    def first_steps() -> Tensor:
        made.append(Steps(model, token, state))
        return _said(made[0], made[0].advance, n)

    first = timed(first_steps, device)
    (steps,) = made
    size = state.n_bytes
    ready = _seen(
        model, lambda: _said(steps, steps.advance, n), first.wall_s, size, held_bytes=size
    )
    start = time.perf_counter()
    try:
        replay = captured(steps.advance, device)
    except CaptureError as error:
        raise CaptureFailed(f"plain: {error}") from error
    steps.restart(token, state)
    seconds = time.perf_counter() - start
    return replace(ready, work=lambda: _said(steps, replay, n), capture_s=seconds)


def _said(steps: Steps, advance: Work, n: int) -> Tensor:
    for _ in range(n):
        advance()
    return steps.token


def _seen(
    model: Decoder, work: Work, first_call_s: float, state_bytes: int, *, held_bytes: int = 0
) -> Ready:
    """Run work once more, and see its products and its memory."""
    from ssmbench.suites._gemms import Watched

    watched = Watched(model)

    def looked_at() -> None:
        with watched:
            work()

    need = needed(looked_at, model.device)
    weights = weights_bytes(model)
    return Ready(work, first_call_s, need, state_bytes, weights, held_bytes, watched.gemms)


def floor(ready: Ready, device: torch.device) -> Work:
    """Make work that does the products of another alone, as a CUDA graph where that is one."""
    from ssmbench.models.decoding import captured
    from ssmbench.suites._gemms import replay

    products = replay(ready.gemms, device)
    return products if ready.capture_s is None else captured(products, device)


def prefill(model: Decoder, ids: Tensor) -> tuple[State, Tensor]:
    """Read prompts (batch, length); gives the state and the likeliest next tokens."""
    from ssmbench.models.forest import Forest

    # Where the model drops tokens, it does so of these; the decoding steps run densely.
    hidden, state = model.hidden(replace(Forest.batch(ids), prompted=True))
    last = hidden.view(*ids.shape, -1)[:, -1]
    return state, model.logits(last).argmax(-1)


def decode(model: Decoder, token: Tensor, state: State, steps: int) -> Tensor:
    """Say `steps` tokens greedily, each from the one before; gives the last."""
    from ssmbench.models.forest import Forest

    for _ in range(steps):
        hidden, state = model.hidden(Forest.batch(token[:, None]), state)
        token = model.logits(hidden).argmax(-1)
    return token
