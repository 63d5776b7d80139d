"""The floor of a forward pass: its projections alone, as matrix products of the same shapes.

What a pass takes beyond this is convolution, scan, attention, gates and norms, and what queueing
all of it costs. No program that multiplies by these weights with this library is faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn


class Gemm(NamedTuple):
    """One product: of `rows` vectors of `dtype` by a weight (out, in).

    `weight` is None where it was made for this one product, such as a copy in another type; then
    `shape` and `dtype` tell what it was.
    """

    rows: int
    shape: tuple[int, int]
    dtype: torch.dtype
    weight: Tensor | None


class Watched(TorchFunctionMode):
    """While it is entered, every `F.linear` is written down in `gemms`, in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.gemms: list[Gemm] = []
        self._own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Note a linear map; everything runs as it would."""
        if func is F.linear:
            x, weight = args[0], args[1]
            rows = x.numel() // x.shape[-1]
            # A copy would be held in memory beside the model.
            kept = weight if id(weight) in self._own else None
            self.gemms.append(Gemm(rows, tuple(weight.shape), x.dtype, kept))
        return func(*args, **(kwargs or {}))


def replay(gemms: Iterable[Gemm], device: torch.device) -> Callable[[], Tensor]:
    """Make work that does these products and nothing else.

    Each weight is the model's own, so that it comes from memory as often as in the model.

    Returns:
        A function that gives one number of the last product.

    Raises:
        ValueError: there are no products.
    """
    todo = list(gemms)
    if not todo:
        raise ValueError("found no product to time; expected at least the head's")
    draw = torch.Generator(device).manual_seed(0)
    made: dict[tuple[object, ...], Tensor] = {}

    def random(dtype: torch.dtype, *shape: int) -> Tensor:
        if (key := (dtype, *shape)) not in made:
            made[key] = torch.randn(shape, generator=draw, device=device).to(dtype)
        return made[key]

    pairs = []
    for gemm in todo:
        weight = random(gemm.dtype, *gemm.shape) if gemm.weight is None else gemm.weight
        pairs.append((random(gemm.dtype, gemm.rows, gemm.shape[1]), weight))

    def work() -> Tensor:
        for x, weight in pairs:
            last = F.linear(x, weight)
        return last[0, 0]

    return work
