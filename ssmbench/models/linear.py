"""The projection of every mixer, MLP and head: a linear map in the type of its input."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Weights that are widened at a time where few vectors are multiplied: a copy of so many is still
# in the cache when it is read, so that memory is read once, and only half as much of it as if
# all were float32. From `MANY` vectors on a product takes far longer than a copy of its weight.
BLOCK_ELEMENTS = 1 << 19
MANY = 256
# Blocks begin at multiples of this many rows, and none is shorter: then matrix libraries
# group the rows as in the whole product, and sum each in the same order.
_ROWS = 64


class Linear(nn.Linear):
    """`nn.Linear`, whose weight may be stored in a narrower type than it is multiplied in.

    The result has the input's type, and the bits of a product with the whole weight widened.
    """

    def reset_parameters(self) -> None:
        """Leave the parameters as they are: a checkpoint or `initialise` fills them."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, in_features) to (…, out_features)."""
        x, weight = input, self.weight
        if weight.dtype == x.dtype or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, weight, bias)
        ):
            y: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
            return y
        return product(x, weight, bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply x (…, in) by a weight (out, in) of a narrower type, in x's type.

    Returns:
        (…, out), in x's type: F.linear(x, weight.to(x.dtype), bias).
    """
    n_vectors, (n_rows, width) = x.numel() // max(1, x.shape[-1]), weight.shape
    reach = max(1, BLOCK_ELEMENTS // max(1, width) // _ROWS) * _ROWS
    n_blocks = n_rows // reach
    if n_blocks < 2 or n_vectors >= MANY:
        return F.linear(x, weight.to(x.dtype), bias)
    sizes = [reach] * (n_blocks - 1) + [n_rows - reach * (n_blocks - 1)]
    biases = [None] * n_blocks if bias is None else bias.split(sizes)
    pairs = zip(weight.split(sizes), biases, strict=True)
    return torch.cat([F.linear(x, part.to(x.dtype), own) for part, own in pairs], -1)


class _Product(torch.autograd.Function):
    """`product` that keeps the narrow weight for its gradients, and not the wide copy of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            grad @ weight.to(grad.dtype) if of_x else None,
            # Autograd rounds it to the type that the parameter takes gradients in.
            rows.T @ x.flatten(0, -2) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
