"""How much a unit matters: the scores that structured methods rank by.

A unit's score is the sum over its rows and columns of the mixer's projections, as the coupling
table lists them, of a mean over each row:

    fisher     w² · E[g²]      the loss's second-order Taylor term with the empirical Fisher in the
                               Hessian's place: the default of "On Pruning State-Space LLMs"
    taylor     |w| · E|g|      its first-order term
    magnitude  |w|
    random     uniform, from the cell's seed

g is the gradient of one calibration window's next-token loss, E the mean over the windows.

Source: Molchanov et al. 2019, arXiv:1906.10771; arXiv:2502.18886, section 3. That paper's public
code takes its gradients on WikiText-2's test split, and on an unshifted loss for Phi-Mamba.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

from ssmbench.errors import MethodError, NumericalError
from ssmbench.surgery.coupling import Axis, Table, positions_of, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    from ssmbench.models.decoder import Decoder
    from ssmbench.surgery.context import MethodContext
else:
    from ssmbench.lazy import functional as F
    from ssmbench.lazy import torch

Score = Literal["fisher", "taylor", "magnitude", "random"]

VERSION = 1
"""Of the gradient statistics: part of the key under which they are shared."""


def needs(score: Score) -> frozenset[str]:
    """Give what a score needs besides the model: "calibration" or "seed"."""
    if score in ("fisher", "taylor"):
        return frozenset({"calibration"})
    return frozenset({"seed"}) if score == "random" else frozenset()


def of_units(
    model: Decoder, axes: Mapping[int, Axis], *, score: Score, context: MethodContext
) -> dict[int, Tensor]:
    """Score the units of some layers.

    Args:
        model: as it is before the step.
        axes: layer → the axis along which its units lie.
        score: which.
        context: of the cell.

    Returns:
        layer → (lead axes…, units) float32 on the CPU, larger where a unit matters more.

    Raises:
        MethodError: no calibration windows, or a layer without such units.
        NumericalError: a weight or a gradient is not finite.
    """
    tables = {i: _table(model, i) for i in axes}
    if score == "random":
        generator = torch.Generator().manual_seed(context.seed)
        return {i: torch.rand(tables[i].shape(a), generator=generator) for i, a in axes.items()}
    vectors = _magnitudes(model) if score == "magnitude" else gradients(model, context)
    return {i: _units(tables[i], axis, vectors, i, score) for i, axis in axes.items()}


def _units(t: Table, axis: Axis, vectors: Mapping[str, Tensor], layer: int, score: Score) -> Tensor:
    """Add up what each unit's rows and columns have."""
    lead = t.lead[axis] + axis
    total = torch.zeros(t.shape(axis))
    for block in t.blocks:
        name, dim, parts = block
        if (name, dim) not in t.scored:
            continue
        offset = 0
        for part in parts:
            shape = positions_of(t, part)
            n = torch.Size(shape).numel()
            if axis in part:
                piece = vectors[_key(layer, name, dim, score)][offset : offset + n].view(shape)
                others = tuple(i for i, a in enumerate(part) if a not in lead)
                total += piece.sum(others) if others else piece
            offset += n
    return total


def _magnitudes(model: Decoder) -> dict[str, Tensor]:
    """Give the mean |w| of every scored row and column."""
    found = {}
    with torch.no_grad():
        for layer, name, dim, parameter in _scored(model):
            mean = parameter.float().abs().mean(1 - dim).cpu()
            if not bool(torch.isfinite(mean).all()):
                raise NumericalError(f"layer {layer}, {name}: found a weight that is not finite.")
            found[_key(layer, name, dim, "magnitude")] = mean
    return found


def gradients(model: Decoder, context: MethodContext) -> dict[str, Tensor]:
    """Give w² · E[g²] and |w| · E|g|, averaged over each scored row and column of every mixer.

    Computed once for all methods and layers that ask, through `context.share`.

    Returns:
        "LAYER.PARAMETER.DIM.SCORE" → (rows or columns,) float32 on the CPU.

    Raises:
        MethodError: no calibration windows, or windows without a next token.
        NumericalError: a loss or a gradient is not finite.
    """
    key = {"statistics": "gradients", "version": VERSION}
    return context.share(key, lambda: _gradients(model, context))


def _gradients(model: Decoder, context: MethodContext) -> dict[str, Tensor]:
    windows = context.windows()
    if windows.shape[1] < 2 or not len(windows):
        raise MethodError(
            f"found {len(windows)} calibration windows of {windows.shape[1]} tokens; expected at "
            "least one of two or more, since the loss is on the next token."
        )
    # Gradients are reduced as they come, and freed: no more than one parameter's is alive.
    sums = {
        _key(layer, name, dim, score): torch.zeros(parameter.shape[dim], device=parameter.device)
        for layer, name, dim, parameter in _scored(model)
        for score in ("fisher", "taylor")
    }
    with _differentiated(model, sums), torch.enable_grad():
        for i, window in enumerate(windows.to(model.device)):
            context.report("compress: gradients", i, len(windows))
            loss = next_token_loss(model, window)
            if not bool(torch.isfinite(loss)):
                raise NumericalError(f"calibration window {i}: found a loss of {loss.item()}.")
            loss.backward()
    means = {name: (total / len(windows)).cpu() for name, total in sums.items()}
    for layer, name, dim, _ in _scored(model):
        for score in ("fisher", "taylor"):
            if not bool(torch.isfinite(means[_key(layer, name, dim, score)]).all()):
                raise NumericalError(
                    f"layer {layer}, {name}: found a gradient that is not finite over the "
                    "calibration windows. Try dtype float32."
                )
    return means


def next_token_loss(model: Decoder, window: Tensor) -> Tensor:
    """Give one window's mean cross entropy of each next token, in nats.

    Activations inside a layer are computed again in the backward pass rather than kept, so that
    a long window fits beside a large model.

    Args:
        model: any.
        window: (length,) int64, at least 2.
    """
    from torch.utils.checkpoint import checkpoint

    from ssmbench.models.forest import Forest

    forest = Forest.batch(window[None, :-1])
    hidden = model.embedding(forest.tokens).float()
    for block in model.layers:
        step = functools.partial(_advance, block, forest)
        hidden = checkpoint(step, hidden, use_reentrant=False, preserve_rng_state=False)
    return F.cross_entropy(model.logits(model.norm_f(hidden)), window[1:])


def _advance(block: nn.Module, forest: Any, hidden: Tensor) -> Tensor:
    after: Tensor = block(hidden, forest, None)[0]
    return after


def _differentiated(model: Decoder, sums: dict[str, Tensor]) -> ExitStack:
    """Ask for the gradients of scored parameters alone, and add what they say to `sums`."""
    stack = ExitStack()
    dims: dict[tuple[int, str], list[int]] = {}
    for layer, name, dim, _ in _scored(model):
        dims.setdefault((layer, name), []).append(dim)
    for parameter in model.parameters():
        stack.callback(parameter.requires_grad_, parameter.requires_grad)
        parameter.requires_grad = False
    for (layer, name), along in dims.items():
        parameter = model.layers[layer].get_parameter(f"mixer.{name}")
        parameter.requires_grad = True
        stack.callback(setattr, parameter, "grad_dtype", parameter.dtype)
        # A weight may be stored in half precision only: what is computed wider stays so.
        parameter.grad_dtype = model.compute_dtype
        targets = {dim: [_key(layer, name, dim, s) for s in ("fisher", "taylor")] for dim in along}
        hook = functools.partial(_reduce, targets=targets, sums=sums)
        stack.callback(parameter.register_post_accumulate_grad_hook(hook).remove)
    return stack


def _reduce(parameter: Tensor, *, targets: dict[int, list[str]], sums: dict[str, Tensor]) -> None:
    """Add a window's row means of (w·g)² and |w·g|: they average to w² · E[g²] and |w| · E|g|."""
    assert parameter.grad is not None
    with torch.no_grad():
        product = parameter.detach().float() * parameter.grad.float()
        for dim, (fisher, taylor) in targets.items():
            sums[fisher] += product.square().mean(1 - dim)
            sums[taylor] += product.abs().mean(1 - dim)
    parameter.grad = None


def _scored(model: Decoder) -> Iterator[tuple[int, str, int, nn.Parameter]]:
    """Go through the projections that are scored: layer, name within the mixer, dim, parameter."""
    for i, spec in enumerate(model.description.layers):
        if spec.mixer is None:
            continue
        for name, dim in sorted(table(spec.mixer).scored):
            yield i, name, dim, model.layers[i].get_parameter(f"mixer.{name}")


def _key(layer: int, name: str, dim: int, score: str) -> str:
    return f"{layer}.{name}.{dim}.{score}"


def _table(model: Decoder, layer: int) -> Table:
    sizes = model.description.layers[layer].mixer
    assert sizes is not None
    return table(sizes)
