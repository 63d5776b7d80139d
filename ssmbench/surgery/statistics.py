"""Calibration statistics, taken from the tensors that truly enter each projection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbench.models.decoder import Block, Decoder
from ssmbench.models.forest import Forest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ssmbench.surgery.projections import Projection

# Elements of the largest logits tensor: 128 MiB in float32.
LOGITS_BUDGET = 1 << 25


class _Watch(ABC):
    """Sees what enters some linear layers, as long as it is entered itself."""

    def __init__(self, modules: Mapping[str, nn.Linear]) -> None:
        self._modules = modules
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for name, module in self._modules.items():
            hook = module.register_forward_pre_hook(self._hook(name))
            self._stack.callback(hook.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _hook(self, name: str) -> Any:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._add(name, inputs[0].flatten(0, -2).double())

        return add

    @abstractmethod
    def _add(self, name: str, x: Tensor) -> None:
        """Take in (positions, in_features) float64."""


class SquareSums(_Watch):
    """Sums x² over all positions, for every input feature of some linear layers, in float64."""

    def __init__(self, modules: Mapping[str, nn.Linear]) -> None:
        super().__init__(modules)
        self.sums = {
            n: torch.zeros(m.in_features, dtype=torch.float64, device=m.weight.device)
            for n, m in modules.items()
        }

    def _add(self, name: str, x: Tensor) -> None:
        self.sums[name] += x.square().sum(0)

    def norms(self) -> dict[str, Tensor]:
        """Give the L2 norm of each input feature: name → (in_features,) float32."""
        return {name: total.sqrt().float() for name, total in self.sums.items()}


class Moments(_Watch):
    """Mean and variance over all positions, for every input feature of some linear layers.

    Batches are joined by Chan's formula in float64, so that a mean far from zero costs no digits.

    Source: Chan, Golub & LeVeque 1983, The American Statistician 37(3).
    """

    def __init__(self, modules: Mapping[str, nn.Linear]) -> None:
        super().__init__(modules)
        self._n = dict.fromkeys(modules, 0)
        self._means = {
            n: torch.zeros(m.in_features, dtype=torch.float64, device=m.weight.device)
            for n, m in modules.items()
        }
        self._squares = {n: torch.zeros_like(mean) for n, mean in self._means.items()}

    def _add(self, name: str, x: Tensor) -> None:
        before, new = self._n[name], len(x)
        total = before + new
        mean = x.mean(0)
        step = mean - self._means[name]
        squares = (x - mean).square().sum(0)
        self._squares[name] += squares + step.square() * (before * new / total)
        self._means[name] += step * (new / total)
        self._n[name] = total

    def means(self) -> dict[str, Tensor]:
        """Give the mean of each input feature: name → (in_features,) float64."""
        return dict(self._means)

    def variances(self) -> dict[str, Tensor]:
        """Give the population variance of each input feature: name → (in_features,) float64."""
        return {name: total / self._n[name] for name, total in self._squares.items()}


def batches(model: Decoder, tokens: Tensor, *, batch_tokens: int) -> Iterator[Forest]:
    """Go through windows (samples, length) int64, as many at once as `batch_tokens` allows."""
    rows = max(1, batch_tokens // tokens.shape[1])
    for part in tokens.to(model.device).split(rows):
        yield Forest.batch(part)


def run(model: Decoder, tokens: Tensor, *, batch_tokens: int) -> None:
    """Run a model, in evaluation mode, over windows (samples, length) int64; whoever watches sees.

    The head is not run.
    """
    with torch.no_grad():
        for forest in batches(model, tokens, batch_tokens=batch_tokens):
            model.hidden(forest, keep_state=False)


def walk(
    model: Decoder, tokens: Tensor, projections: Iterable[Projection], *, batch_tokens: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Go through the blocks with the input norms of the projections that each has.

    A block's norms are taken with the whole block as it is; what the caller then does to it is
    seen by the blocks after it, since its output is computed when the caller asks for the next
    one.

    Args:
        model: in evaluation mode.
        tokens: (samples, length) int64 calibration windows.
        projections: in the model's order; blocks without any are passed through, not given out.
        batch_tokens: positions that run at once.

    Yields:
        (layer, {path in the block: (in_features,) float32}), in the model's order.
    """
    wanted = {
        layer: {p.name: p.module for p in found}
        for layer, found in groupby(projections, lambda p: p.layer)
    }
    forests = list(batches(model, tokens, batch_tokens=batch_tokens))
    with torch.no_grad():
        hidden = [model.embedding(forest.tokens).float() for forest in forests]
        for i, block in enumerate(model.layers):
            assert isinstance(block, Block)
            if i in wanted:
                with SquareSums(wanted[i]) as sums:
                    for h, forest in zip(hidden, forests, strict=True):
                        block(h, forest, None)
                yield i, sums.norms()
            hidden = [block(h, f, None)[0] for h, f in zip(hidden, forests, strict=True)]


def summed_nats(model: Decoder, hidden: Tensor, targets: Tensor) -> float:
    """Sum the negative log-likelihood of a token after each position, in nats.

    Args:
        model: gives the final norm and the head.
        hidden: (positions, d_model), what leaves the last layer.
        targets: (positions,) int64.
    """
    total = 0.0
    chunk = max(1, LOGITS_BUDGET // model.description.vocab_size)
    for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        nats = F.cross_entropy(model.logits(model.norm_f(h)), t, reduction="none")
        total += float(nats.double().sum())
    return total
