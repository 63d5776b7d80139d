"""Calibration statistics, taken from the tensors that truly enter each projection."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ssmbench.models.decoder import Block, Decoder
from ssmbench.models.forest import Forest

if TYPE_CHECKING:
    from collections.abc import Iterator


class SquareSums:
    """Sums x² over all positions, for every input feature of some linear layers, in float64."""

    def __init__(self, modules: dict[str, nn.Linear]) -> None:
        self.sums = {
            n: torch.zeros(m.in_features, dtype=torch.float64, device=m.weight.device)
            for n, m in modules.items()
        }
        self._modules = modules
        self._stack = ExitStack()

    def __enter__(self) -> SquareSums:
        for name, module in self._modules.items():
            hook = module.register_forward_pre_hook(self._hook(name))
            self._stack.callback(hook.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _hook(self, name: str) -> Any:
        def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2)
            self.sums[name] += x.double().square().sum(0)

        return add

    def norms(self) -> dict[str, Tensor]:
        """Give the L2 norm of each input feature: name → (in_features,) float32."""
        return {name: total.sqrt().float() for name, total in self.sums.items()}


def walk(
    model: Decoder, tokens: Tensor, names: tuple[str, ...], *, batch_tokens: int
) -> Iterator[tuple[Block, dict[str, Tensor]]]:
    """Go through the blocks with the input norms of each mixer's named projections.

    A block's norms are taken with the block as it is; what the caller then does to it is seen
    by the blocks after it, since its output is computed when the caller asks for the next one.

    Args:
        model: in evaluation mode.
        tokens: (samples, length) int64 calibration windows.
        names: projections of a mixer, such as ("in_proj", "out_proj"); blocks whose mixer has
            none of them are passed through and not given out.
        batch_tokens: positions that run at once.

    Yields:
        (block, {name: (in_features,) float32}), in the model's order.
    """
    rows = max(1, batch_tokens // tokens.shape[1])
    forests = [Forest.batch(part) for part in tokens.to(model.device).split(rows)]
    with torch.no_grad():
        hidden = [model.embedding(forest.tokens).float() for forest in forests]
        for block in model.layers:
            assert isinstance(block, Block)
            found = {n: getattr(block.mixer, n) for n in names if hasattr(block.mixer, n)}
            if found:
                with SquareSums(found) as sums:
                    for h, forest in zip(hidden, forests, strict=True):
                        block(h, forest, None)
                yield block, sums.norms()
            hidden = [block(h, f, None)[0] for h, f in zip(hidden, forests, strict=True)]
