"""Time of prefill and of decoding steps: the compressed and the dense model take turns.

Both are in one process on one device, and so is the floor, their projections alone. Each repeat
times one after the other, in an order that alternates, so that a slow drift of the machine's
clock meets all alike. Prefill reads prompts that are on the host and gives the next tokens there;
a decoding step reads one token and its state and gives the next. On a GPU all steps are CUDA
graphs, or none is: where one model's cannot be captured, the row says why.

A time that was taken while somebody else used the device keeps its row, marked as not
publishable: run again on a machine that is idle. A shape for which there is no memory has a row
without times that says so.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssmbench.errors import MethodError
from ssmbench.suites._latency_row import Ready, attempt, beside, floor_of, own, sentence, unknown
from ssmbench.suites._latency_work import CAPTURED, CaptureFailed, floor, how, prepared
from ssmbench.suites._memory import free_bytes, release
from ssmbench.suites._strangers import told, watch
from ssmbench.suites._timing import take_turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.suites._context import Context, Result
    from ssmbench.suites._strangers import Watch
else:
    from ssmbench.lazy import torch

VERSION = 3
KIND = "timing"

Shape = tuple[int, int]
_BATCHES = (1, 4, 16)
_LENGTHS = (128, 512, 1024, 2048, 4096, 8192)
_GIB = 2**30
# How many times as many tokens what was seen of memory speaks for.
_FORESIGHT = 16
_UNTIMED = 2  # The first call, and the one in which memory is counted.


class Params(BaseModel):
    """What is timed, and how often; shapes are [batch, length] pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefill: tuple[Shape, ...] = Field(
        tuple((batch, length) for batch in _BATCHES for length in _LENGTHS),
        description="Prompts: how many at once, and their tokens.",
    )
    decode: tuple[Shape, ...] = Field(
        tuple((batch, 512) for batch in (*_BATCHES, 64)),
        description="Sequences at once, and the tokens before the timed steps.",
    )
    decode_steps: int = Field(16, ge=1, description="Steps of which one repeat is the mean.")
    warmup: int = Field(
        2,
        ge=0,
        description="Untimed repeats, after a first call and one in which memory is counted.",
    )
    repeats: int = Field(
        10, ge=2, description="Timed repeats; from 100 on there is a 99th percentile."
    )
    graphs: Literal["auto", "off"] = Field(
        "auto",
        description="Decode by CUDA graphs, on a GPU and without attention; or never.",
    )
    semi_structured: bool = Field(
        default=False,
        description="Run 2:4 weights through a GPU's sparse products, for the times alone.",
    )


def provides(params: Params) -> dict[str, Any]:
    """Give what else makes the numbers; the plan adds the device's name to timing suites."""
    del params
    return {}


def tokens(params: Params, limit: int | None) -> int | None:
    """Estimate the tokens that both models and the floor run over, for the plan's FLOPs."""
    del limit
    rounds = 3 * (params.warmup + params.repeats) + 2 * _UNTIMED
    prefill = sum(batch * length for batch, length in params.prefill)
    steps = sum(batch * params.decode_steps for batch, _ in params.decode)
    prompts = sum(batch * length for batch, length in params.decode)
    return rounds * (prefill + steps) + 2 * prompts


def run(context: Context, params: Params) -> Result:
    """Time every shape; one latency row each.

    Raises:
        MethodError: 2:4 products are asked for, and the device or the model has none.
    """
    from ssmbench.suites._context import Result

    dense = context.dense()
    total = len(params.prefill) + len(params.decode)
    result = Result()
    with (
        torch.inference_mode(),
        _products(context.model, params) as n_sparse,
        watch(context.model.device) as watching,
    ):
        bench = _Bench(context, params, dense, watching)
        for phase, shapes in (("prefill", params.prefill), ("decode", params.decode)):
            for batch, length in shapes:
                context.report(f"{phase} {batch}×{length}", len(result.latency), total)
                row = bench.row(phase, batch, length)
                result.latency.append(row | {"n_semi_structured": n_sparse})
    context.report("latency", total, total)
    return result


@contextmanager
def _products(model: Decoder, params: Params) -> Iterator[int | None]:
    """Make 2:4 weights run as such, where that is asked for; gives how many do.

    A model without a zero is the dense one, which is timed as it is.
    """
    if not params.semi_structured:
        yield None
        return
    from ssmbench.kernels.semi_structured import sparse_products, why_not

    problem = why_not(model.device)
    if problem is not None:
        raise MethodError(f"latency with semi_structured: {problem}.")
    with sparse_products(model) as n_sparse:
        if not n_sparse and any((p == 0).any() for p in model.layers.parameters() if p.ndim == 2):
            raise MethodError(
                "latency with semi_structured: found no projection that is 2:4, in 16 bits and of"
                " 16·k inputs; expected some. Choose a method's `pattern: 2:4` and a 16-bit dtype."
            )
        yield n_sparse


@dataclass
class _Bench:
    """Both models, and what is learned about the memory that they need."""

    context: Context
    params: Params
    dense: Decoder
    watching: Watch
    seen_tokens: int = field(default=0, init=False)
    seen_bytes: int = field(default=0, init=False)

    def row(self, phase: str, batch: int, length: int) -> dict[str, Any]:
        """Time one shape."""
        device = self.context.model.device
        row: dict[str, Any] = {"phase": phase, "batch": batch, "length": length}
        row |= dict.fromkeys(("median_s", "dense_median_s", "speedup"))
        if problem := self._too_large(batch * length):
            return row | {"reason": f"median_s: {problem}"}
        ids = _token_ids(self.context, self.dense, batch, length)
        steps = self.params.decode_steps if phase == "decode" else 1
        graph = how(phase, self.params.graphs, self.context.model, self.dense)
        try:
            found, why = self._readies(phase, ids, steps, graph=graph == CAPTURED)
        except CaptureFailed as error:
            graph = str(error)
            found, why = self._readies(phase, ids, steps, graph=False)
        mine, theirs = found
        row["graph"] = graph
        if mine is not None:
            n_tokens = batch if phase == "decode" else batch * length
            figures, problem = attempt(partial(self._times, mine, theirs, steps, n_tokens), device)
            if figures is None:
                why["median_s"] = problem
            else:
                row |= figures
                why |= row.pop("why")
                if phase == "decode":
                    row["first_token_s"] = None
                else:
                    self._learn(batch * length, mine, theirs)
        del mine, theirs, found
        release(device)
        return row | {"reason": sentence(why)}

    def _readies(
        self, phase: str, ids: Tensor, steps: int, *, graph: bool
    ) -> tuple[list[Ready | None], dict[str, str]]:
        """Make both models' work, and say why there is none of one.

        Raises:
            CaptureFailed: a model's decoding step could not be captured.
        """
        found: list[Ready | None] = []
        why: dict[str, str] = {}
        for name, model in (("median_s", self.context.model), ("dense_median_s", self.dense)):
            make = partial(prepared, phase, model, ids, steps, graph=graph)
            ready, problem = attempt(make, model.device)
            if ready is None:
                why[name] = problem
            found.append(ready)
        return found, why

    def _times(self, mine: Ready, dense: Ready | None, steps: int, n_tokens: int) -> dict[str, Any]:
        """Time both and the floor in turns; `why` says why columns are null."""
        device, params = self.context.model.device, self.params
        works = [mine.work]
        if dense is not None:
            works.append(dense.work)
        products, no_floor = None, "no product was seen: the model runs compiled"
        if mine.gemms:
            products, no_floor = attempt(partial(floor, mine, device), device)
        if products is not None:
            works.append(products)
        self.watching.begin()
        times = take_turns(works, device, warmup=params.warmup, repeats=params.repeats)
        conditions = self.watching.end()
        turns = iter(times)
        figures = own(mine, next(turns), steps, n_tokens, device)
        figures |= beside(dense, next(turns) if dense is not None else None, steps)
        figures |= floor_of(next(turns) if products is not None else None, steps)
        speedup = None if dense is None else figures["dense_median_s"] / figures["median_s"]
        why = unknown(conditions, mine) | ({} if products is not None else {"floor_s": no_floor})
        return figures | {"speedup": speedup} | told(conditions) | {"why": why}

    def _too_large(self, n_tokens: int) -> str | None:
        """Say that a shape needs more memory than there is, where that is known beforehand.

        A GPU's allocator refuses; on a CPU the system would end the process.
        """
        free = free_bytes(self.context.model.device)
        if free is None or n_tokens > _FORESIGHT * self.seen_tokens:
            return None
        expected = self.seen_bytes * n_tokens / self.seen_tokens
        if expected <= free:
            return None
        return (
            f"not tried: by what shorter prompts needed, it takes {expected / _GIB:.1f} GiB,"
            f" and {free / _GIB:.1f} GiB are free"
        )

    def _learn(self, n_tokens: int, *readies: Ready | None) -> None:
        """Note what the largest prompts so far needed."""
        known = [r.needed.working_bytes or 0 for r in readies if r is not None]
        if n_tokens > self.seen_tokens:
            self.seen_tokens, self.seen_bytes = n_tokens, max(known)


def _token_ids(context: Context, dense: Decoder, batch: int, length: int) -> Tensor:
    """Draw (batch, length) random tokens that both models know, on the host."""
    vocabulary = min(m.description.vocab_size for m in (context.model, dense))
    draw = torch.Generator().manual_seed(context.seed)
    return torch.randint(vocabulary, (batch, length), generator=draw)
