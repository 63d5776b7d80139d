"""2:4 sparsity at run time: pruned projections through the GPU's sparse matrix products.

A weight of which every four consecutive inputs keep at most two is stored in half the space and
multiplied at up to twice the speed by sparse tensor cores. It is a conversion for timing: the
model's own weights stay dense with zeros, and so does everything that is scored.

Source: Mishra et al. 2021, arXiv:2104.08378; torch.sparse.to_sparse_semi_structured.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

Convert = Callable[[Tensor], Tensor]

# cuSPARSELt takes 16-bit weights whose rows and columns are multiples of this.
MULTIPLE = 16
DTYPES = (torch.float16, torch.bfloat16)


def is_two_four(weight: Tensor) -> bool:
    """Tell whether every four consecutive inputs of every output keep at most two.

    Args:
        weight: (out, in).
    """
    if weight.shape[1] % 4:
        return False
    return bool((weight.unflatten(1, (-1, 4)) != 0).sum(-1).le(2).all())


class SparseLinear(nn.Module):
    """A projection whose weight is stored as 2:4, its rows padded to what the kernel takes.

    Args:
        linear: the projection; its weight is 2:4, and stays as it is.
        convert: makes a 2:4 tensor of a dense (rows, in) one, rows a multiple of MULTIPLE.
    """

    def __init__(self, linear: nn.Linear, convert: Convert) -> None:
        super().__init__()
        rows = linear.out_features
        padding = -rows % MULTIPLE
        self.n_rows = rows
        weight = convert(F.pad(linear.weight.detach(), (0, 0, 0, padding)).contiguous())
        bias = None if linear.bias is None else F.pad(linear.bias.detach(), (0, padding))
        # Buffers, so that a model's memory counts them.
        self.sparse: Tensor
        self.bias: Tensor | None
        self.register_buffer("sparse", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Project (…, in) to (…, out)."""
        y = F.linear(x, self.sparse, self.bias)
        return y[..., : self.n_rows]


def why_not(device: torch.device) -> str | None:
    """Say why a device has no 2:4 products, or None: a small one is run and compared.

    Args:
        device: where the model is.
    """
    if device.type != "cuda":
        return "2:4 products need a GPU; on a processor the pattern stays a mask"
    weight = torch.randn(64, 64, device=device, dtype=torch.float16)
    weight.unflatten(1, (-1, 4))[..., 2:] = 0
    x = torch.randn(32, 64, device=device, dtype=torch.float16)
    try:
        found = F.linear(x, torch.sparse.to_sparse_semi_structured(weight))
    except Exception as error:  # noqa: BLE001 - whatever it is, the device cannot do it
        return f"2:4 products do not run here: {error}"
    if not torch.allclose(found, F.linear(x, weight), rtol=1e-2, atol=1e-2):
        return "2:4 products give wrong numbers here"
    return None


def prunable(model: nn.Module) -> dict[str, nn.Linear]:
    """Find the projections of a model's layers whose weights are 2:4, by name.

    Those that the kernel cannot take, by their dtype or their number of inputs, are left out.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if name.startswith("layers.")
        and isinstance(module, nn.Linear)
        and module.weight.dtype in DTYPES
        and not module.in_features % MULTIPLE
        and is_two_four(module.weight)
    }


@contextmanager
def sparse_products(
    model: nn.Module, *, convert: Convert = torch.sparse.to_sparse_semi_structured
) -> Iterator[int]:
    """Run a model's 2:4 projections as such while the context lasts; gives how many there are.

    Args:
        model: changed in place, and put back at the end.
        convert: makes a 2:4 tensor of a dense one.
    """
    found = prunable(model)
    sparse: dict[str, nn.Module] = {name: SparseLinear(m, convert) for name, m in found.items()}
    try:
        _replace(model, sparse)
        yield len(found)
    finally:
        _replace(model, dict(found))


def _replace(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
