"""The steps of `make gpu-check`; each gives its figures, `told` in a line, and what is `wrong`."""

from __future__ import annotations

import gc
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ssmbench import plugins
from ssmbench.grid.catalogue import find
from ssmbench.kernels import backends, check, semi_structured
from ssmbench.models.decoder import Decoder
from ssmbench.models.initialise import initialise
from ssmbench.suites import latency
from ssmbench.suites._context import Context
from ssmbench.surgery.context import MethodContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_check import Check

MAMBA, MAMBA2 = "mamba-2.8b", "mamba2-2.7b"
SMALL_ERROR = 2e-3
# Gradients sum over all tokens, and some of their terms cancel.
GRADIENT_ERROR = 1e-2
# In bf16 the torch form is the measure: another backend may err this many times as much.
TIMES_TORCH = 2.0


def needs(seconds: int) -> Callable[[Any], Any]:
    """Say how long a step takes; without that much time it is not begun."""

    def note(step: Any) -> Any:
        step.needs_s = seconds
        return step

    return note


@needs(60)
def kernels(step: Check) -> dict[str, Any]:
    """Hold every backend's operations against their twins in float64 on the processor."""
    rows, wrong = [], []
    for dtype in ("float32", "bfloat16"):
        for found in backends.available(step.device, dtype):
            for operation, problem in found.problems.items():
                rows.append({"backend": found.backend, "dtype": dtype, "operation": operation,
                             "problem": problem})  # fmt: skip
                step.say(f"{found.backend:10}{dtype:10}{operation:26}{problem or 'right'}")
    errors = check.errors(step.device)
    wrong += [f"torch's {op}: error {e:.1e}" for op, e in errors.items() if e > SMALL_ERROR]
    right = sum(row["problem"] is None for row in rows)
    return {"rows": rows, "torch_errors": errors, "wrong": wrong,
            "told": f"{right} of {len(rows)} backends and operations are right here"}  # fmt: skip


@needs(60)
def models(step: Check) -> dict[str, Any]:
    """Hold tiny models of every family and odd sizes against the processor, on every backend."""
    from gpu_equality import gradients, gradients_error, logits_error

    rows, wrong = [], []
    for name in plugins.names("family"):
        family = plugins.load("family", name)
        model = Decoder(family.tiny())
        initialise(model, seed=0)
        ids = torch.randint(model.description.vocab_size, (3, 130))
        with torch.inference_mode():
            expected = model(ids)
        learnt = gradients(model, ids)
        for dtype in ("float32", "bfloat16"):
            moved = model.to(step.device, getattr(torch, dtype))
            largest = SMALL_ERROR
            for backend in sorted(backends.NAMES, key=lambda name: name != backends.TORCH):
                error, problem = logits_error(moved, ids, expected, backend, dtype)
                if backend == backends.TORCH and dtype == "bfloat16" and error is not None:
                    largest = TIMES_TORCH * error
                rows.append({"family": name, "dtype": dtype, "backend": backend, "error": error,
                             "problem": problem})  # fmt: skip
                if error is not None and not error < largest:
                    wrong.append(f"{name} in {dtype} on {backend}: error {error:.1e}")
                if error is not None and dtype == "float32":
                    error, problem = gradients_error(moved, ids, learnt, backend)
                    rows[-1] |= {"gradients_error": error, "gradients_problem": problem}
                    if error is None or not error < GRADIENT_ERROR:
                        what = problem or f"error {error:.1e}"
                        wrong.append(f"gradients of {name} on {backend}: {what}")
            model = model.float().cpu()
    told = f"{sum(r['error'] is not None for r in rows)} combinations ran, {len(wrong)} are wrong"
    return {"rows": rows, "wrong": wrong, "told": told}


@needs(40)
def decoding(step: Check) -> dict[str, Any]:
    """Decode by CUDA graphs and plainly, in turns: the same tokens."""
    from gpu_decoding import compare

    rows, wrong = [], []
    for name in (MAMBA2, MAMBA):
        model = _model(step, name)
        for batch in (1, 16):
            sizes = {"batch": batch, "length": 8 if step.small else 512}
            times = {"steps": 2 if step.small else 32, "repeats": 2 if step.small else 10}
            row = {"model": name} | compare(model, step.device, **sizes, **times)
            step.say(f"{name} {batch}: {row['tokens_per_s']:.0f} tokens/s, ×{row['ratio']:.2f}")
            if not row["logits_error"] < SMALL_ERROR:
                wrong.append(f"{name}, batch {batch}: logits are off by {row['logits_error']:.1e}")
            if row["graph"] != "captured" and not step.small:
                wrong.append(f"{name}, batch {batch}: {row['graph']}")
            rows.append(row)
        del model
        _release()
    told = ", ".join(f"{r['model']} {r['batch']}: ×{r['ratio']:.2f}" for r in rows)
    return {"rows": rows, "wrong": wrong, "told": f"plain ÷ graph, a step: {told}"}


@needs(120)
def structured(step: Check) -> dict[str, Any]:
    """Time Mamba-2 without half of its states, heads or channels, in multiples of 16."""
    rows = []
    for method in ("state", "head", "head_dim"):
        granularity = 1 if step.small else 16
        rows += _latency(step, MAMBA2, method, 0.5, score="magnitude", granularity=granularity)
    return {"rows": rows, "told": _kept(rows)}


@needs(40)
def two_four(step: Check) -> dict[str, Any]:
    """Time Mamba-2 with 2:4 projections, dense and through sparse products."""
    why = semi_structured.why_not(torch.device(step.device))
    if why is not None:
        return {"rows": [], "wrong": [] if step.small else [why], "told": why}
    rows = _latency(step, MAMBA2, "magnitude", 0.5, pattern="2:4", shapes=((4, 2048), (16, 2048)),
                    around=semi_structured.sparse_products)  # fmt: skip
    return {"rows": rows, "told": _speedups(rows)}


@needs(90)
def simba(step: Check) -> dict[str, Any]:
    """Time Simba's prefill at ratio 0.9 against dense, on the same kernels."""
    rows = []
    for model in (MAMBA2, MAMBA):
        shapes = ((1, 8192), (4, 2048))
        rows += _latency(step, model, "simba", 0.9, shapes=shapes, decode=())
    return {"rows": rows, "told": _speedups(rows)}


@needs(90)
def scoring(step: Check) -> dict[str, Any]:
    """Score the six tasks' token lengths as we do and as lm-eval does, on the same kernels."""
    from gpu_scoring import compare

    model = _model(step, MAMBA2)
    rows = compare(model, step.device, n=4 if step.small else 200)
    mine, theirs = (sum(row[name] for row in rows) for name in ("ours_s", "hflm_s"))
    largest = max(row["max_difference_nats"] for row in rows)
    told = f"lm-eval's way ÷ ours: {theirs / mine:.2f}, scores within {largest:.1e} nats"
    return {"rows": rows, "ratio": theirs / mine, "told": told}


@needs(80)
def training(step: Check) -> dict[str, Any]:
    """Count the tokens a second of distilling a pruned model, by backend, and its peak memory."""
    from gpu_training import distil

    rows = distil(step)
    told = "; ".join(
        f"{r['model']} on {r['backend']}: {r['tokens_per_s']:.0f} tokens/s" for r in rows
    )
    return {"rows": rows, "told": told}


STEPS = (kernels, models, decoding, structured, two_four, simba, scoring, training)


def _latency(
    step: Check,
    name: str,
    method: str,
    ratio: float,
    *,
    shapes: tuple[tuple[int, int], ...] = ((1, 2048), (4, 2048)),
    decode: tuple[tuple[int, int], ...] = ((1, 512), (16, 512)),
    around: Callable[[Decoder], Any] | None = None,
    **params: Any,
) -> list[dict[str, Any]]:
    """Time a compressed model beside its dense one by the latency suite."""
    model = _model(step, name)
    compressed = _model(step, name)
    module = plugins.load("method", method)
    context = MethodContext(seed=0, calibration=None, batch_tokens=4096, report=_silent)
    achieved = module.compress(
        compressed, ratio=ratio, params=module.Params(**params), context=context
    )
    if step.small:
        shapes, decode = ((1, 32),), tuple((1, 8) for _ in decode[:1])
    settings = latency.Params(prefill=shapes, decode=decode, decode_steps=4 if step.small else 32,
                              warmup=1, repeats=2 if step.small else 10)  # fmt: skip
    dtype = str(model.embedding.weight.dtype).removeprefix("torch.")
    with (
        tempfile.TemporaryDirectory() as scratch,
        backends.using("auto", step.device, dtype) as chosen,
        backends.recording() as used,
        around(compressed) if around else torch.inference_mode(),
    ):
        given = Context(model=compressed, tokenizer=cast("Any", None), dense=lambda: model,
                        data=None, limit=None, seed=0, batch_tokens=4096, scratch=Path(scratch),
                        report=_silent)  # fmt: skip
        found = latency.run(given, settings).latency
    about = {"model": name, "method": method, "ratio": ratio, "params": params,
             "ratio_achieved": achieved, "params_kept": _size(compressed) / _size(model),
             "backend": used.text, "providers": dict(chosen.providers)}  # fmt: skip
    rows = [about | row for row in found]
    for row in rows:
        step.say(f"{name} {method} {row['phase']} {row['batch']}×{row['length']}: "
                 f"×{row['speedup'] or float('nan'):.3f}")  # fmt: skip
    del compressed, given
    _release()
    return rows


def _model(step: Check, name: str) -> Decoder:
    """Make a model of a published size with random weights in bf16; if small, a toy in float32."""
    description = find(name).describe()
    assert description is not None
    if step.small:
        family = plugins.load("family", find(name).family)
        description = family.tiny()
    torch.set_default_dtype(torch.float32 if step.small else torch.bfloat16)
    try:
        with torch.device(step.device):
            model = Decoder(description)
        initialise(model, seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    return model.eval().requires_grad_(requires_grad=False)


def _silent(*_: Any) -> None:
    """Say nothing of a step's progress."""


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _size(model: Decoder) -> int:
    return sum(p.numel() for p in model.parameters())


def _speedups(rows: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{r['model']} {r['phase']} {r['batch']}×{r['length']} ×{r['speedup']:.2f}"
        for r in rows
        if r["speedup"]
    )


def _kept(rows: list[dict[str, Any]]) -> str:
    """Say how much of the time is kept beside how much of the parameters."""
    told = []
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [
            r for r in rows if r["method"] == method and r["speedup"] and r["phase"] == "prefill"
        ]
        kept = statistics.median(1 / r["speedup"] for r in mine)
        told.append(f"{method}: {kept:.2f} of the time for {mine[0]['params_kept']:.2f} of the"
                    f" parameters")  # fmt: skip
    return "; ".join(told)
