"""Number formats: what weights are stored in, and what is computed with them.

On a GPU, and on a processor with bfloat16 units, a half-precision model is half throughout:
projections run in its type, and scans, norms' arithmetic and the residual stream in float32.
Elsewhere half products are slower than whole ones, so that only storage is half: the weights of
projections and the embedding, which are nearly all of a model. Its other parameters are rounded
to the half type and held in float32, which makes float32 what the norms give and all computes in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# By torch.cpu.get_capabilities: x86's AVX-512 and AMX, then ARM's NEON and SVE.
_BF16_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def cpu_has_bf16_units() -> bool:
    """Say whether this machine's processor multiplies bfloat16 in units of its own, by oneDNN.

    oneDNN alone takes bfloat16 also where it has to emulate it, several times slower than
    float32. A torch that cannot tell (before `torch.cpu.get_capabilities`) counts as without.
    """
    told = getattr(torch.cpu, "get_capabilities", None)
    if told is None or not any(told().get(name, False) for name in _BF16_UNITS):
        return False
    return torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def compute_dtype(dtype: str, device: str) -> str:
    """Name the type that projections run in.

    Args:
        dtype: of the stored weights: "float32", "bfloat16" or "float16".
        device: "cpu", "cuda" or "cuda:N".
    """
    if not device.startswith("cpu") or dtype == "float32":
        return dtype
    return "bfloat16" if dtype == "bfloat16" and cpu_has_bf16_units() else "float32"


def holding(
    model: nn.Module, stored: torch.dtype, computed: torch.dtype
) -> Callable[[str, Tensor], Tensor]:
    """Give the function (parameter's name, tensor) -> a tensor of its own, as it is to be held.

    Args:
        model: tells which parameters are stored and not computed with as they are.
        stored: what every parameter is rounded to.
        computed: what projections run in; another type than `stored` is wider.
    """
    large = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }

    def held(name: str, tensor: Tensor) -> Tensor:
        # Contiguous, and not a part of another.
        rounded = torch.empty(tensor.shape, dtype=stored).copy_(tensor)
        return rounded if name in large else rounded.to(computed)

    return held
