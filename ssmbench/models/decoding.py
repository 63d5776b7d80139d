"""Greedy decoding on buffers that stay where they are, so that a step can run as a CUDA graph.

A step queues hundreds of small kernels, which takes a processor longer than the GPU takes to run
them. As a graph all of them are queued at once. A graph runs the same kernels on the same
addresses again: tokens and states are buffers here, and each step leaves in them what the next
one reads. Source: torch 2.13, torch/cuda/graphs.py; mamba_ssm 2.3.2.post1, utils/generation.py.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ssmbench.kernels.dispatch import overwriting_states
from ssmbench.kernels.semi_structured import SparseLinear
from ssmbench.models import description as d
from ssmbench.models.forest import Forest
from ssmbench.models.state import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssmbench.models.decoder import Decoder

# Kernels are compiled, tuned and loaded, and workspaces made, at first calls: never in a capture.
WARM_UPS = 3

_Result = TypeVar("_Result")


class CaptureError(Exception):
    """Work could not be captured as a graph; it runs as it is."""


class Steps:
    """A model that says one token after another, each from the one before and its state.

    Attributes:
        token: (batch,) int64, what was said last and is read next.
        state: what is continued.
        logits: (batch, vocabulary) float32, of the last step.
    """

    token: Tensor
    state: State
    logits: Tensor

    @torch.inference_mode()
    def __init__(self, model: Decoder, token: Tensor, state: State) -> None:
        """Begin.

        Args:
            model: without attention, whose state grows.
            token: (batch,) int64, which follows the tokens that `state` is after.
            state: is copied.

        Raises:
            ValueError: the state changes its shape from step to step.
        """
        self._model = model
        self.logits, after = self._next(token, state)
        shapes = [[t.shape for layer in s.layers for t in layer] for s in (state, after)]
        if shapes[0] != shapes[1]:
            raise ValueError("found a state that grows with tokens; expected one that does not")
        # In the order of memory that steps leave them in, so that all steps read the same.
        layers = tuple(tuple(torch.empty_like(t) for t in layer) for layer in after.layers)
        self.token, self.state = torch.empty_like(token), State(layers)
        self.restart(token, state)

    @torch.inference_mode()
    def restart(self, token: Tensor, state: State) -> None:
        """Go on from another token and state, of the same shapes."""
        self._keep(token, state)

    @torch.inference_mode()
    def advance(self) -> Tensor:
        """Take a step; gives `token`, which is now the next one."""
        with overwriting_states():
            self.logits, after = self._next(self.token, self.state)
        self._keep(self.logits.argmax(-1), after)
        return self.token

    def _next(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, after = self._model.hidden(Forest.batch(token[:, None]), state)
        return self._model.logits(hidden), after

    def _keep(self, token: Tensor, state: State) -> None:
        """Copy to the buffers what is not there already, all of a type at once."""
        pairs = [(self.token, token)]
        for buffers, layer in zip(self.state.layers, state.layers, strict=True):
            pairs += zip(buffers, layer, strict=True)
        by_type: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for buffer, value in pairs:
            if not value.is_set_to(buffer):
                by_type[buffer.dtype].append((buffer, value))
        for same in by_type.values():
            torch._foreach_copy_([b for b, _ in same], [v for _, v in same])


def why_not(model: Decoder) -> str | None:
    """Say why a model's decoding step does not run as a CUDA graph, or None where it can."""
    if model.device.type != "cuda":
        return "it runs on a processor"
    specs = enumerate(model.description.layers)
    attention = [i for i, layer in specs if isinstance(layer.mixer, d.Attention)]
    if attention:
        layers = ", ".join(map(str, attention))
        return f"the keys of attention grow with every token (layer {layers})"
    if any(isinstance(module, SparseLinear) for module in model.modules()):
        return "2:4 products have not been captured yet"
    return None


def captured(work: Callable[[], _Result], device: torch.device) -> Callable[[], _Result]:
    """Run work a few times, and capture it as a CUDA graph.

    Args:
        work: reads and writes tensors that stay where they are, and no value of the device.
        device: a GPU.

    Returns:
        A function that queues the same again, and gives the same result: its tensors' values are
        those of the last call.

    Raises:
        CaptureError: it cannot be captured.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    graph = torch.cuda.CUDAGraph()
    # Around all of it: a capture that fails leaves its stream current.
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work()
        try:
            # Other threads of the process may go on allocating.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = work()
        except RuntimeError as error:
            # What failed first; the end of the capture fails in its wake.
            first = error.__context__ or error
            if isinstance(first, torch.OutOfMemoryError):
                raise first from None
            raise CaptureError(f"it could not be captured: {_line(first)}") from error
    torch.cuda.current_stream(device).wait_stream(stream)

    def replay() -> _Result:
        graph.replay()
        return result

    return replay


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
