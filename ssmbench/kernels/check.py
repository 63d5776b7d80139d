"""Whether the kernels compute on a device what their naive twins compute on the processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ssmbench.kernels import naive
from ssmbench.kernels.conv import causal_conv
from ssmbench.kernels.selective_scan import selective_scan
from ssmbench.kernels.ssd import ssd

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# float32 with matrix products in float32: what a right device stays far below.
LARGEST_ERROR = 1e-3


def errors(device: str) -> dict[str, float]:
    """Run each kernel in float32 on a device and its twin in float64 on the CPU.

    Args:
        device: "cpu", "cuda" or "cuda:N".

    Returns:
        For each kernel the largest difference, as a part of the twin's largest value.

    Raises:
        RuntimeError: the device cannot run it.
    """
    return {
        "ssd": _error(ssd, naive.ssd, _ssd_inputs(), device),
        "selective_scan": _error(selective_scan, naive.selective_scan, _scan_inputs(), device),
        "causal_conv": _error(causal_conv, naive.causal_conv, _conv_inputs(), device),
    }


def _error(
    fast: Callable[..., Any], twin: Callable[..., Any], inputs: dict[str, Tensor], device: str
) -> float:
    with torch.no_grad():
        expected = twin(**inputs)
        found = fast(**{name: x.float().to(device) for name, x in inputs.items()})
    single = isinstance(expected, torch.Tensor)
    pairs = [(found, expected)] if single else zip(found, expected, strict=True)
    return max(
        float((a.cpu().double() - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs
    )


def _draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _ssd_inputs() -> dict[str, Tensor]:
    step = torch.nn.functional.softplus(_draw(1, 2, 100, 4))
    return {
        "x": _draw(2, 2, 100, 4, 8),
        "log_decay": -step * (_draw(3, 4).abs() + 0.1),
        "in_weight": step,
        "B": _draw(4, 2, 100, 2, 16),
        "C": _draw(5, 2, 100, 2, 16),
        "D": _draw(6, 4),
        "state": _draw(7, 2, 4, 8, 16),
    }


def _scan_inputs() -> dict[str, Tensor]:
    return {
        "u": _draw(1, 2, 50, 32),
        "dt": torch.nn.functional.softplus(_draw(2, 2, 50, 32)),
        "A": -(_draw(3, 32, 8).abs() + 0.1),
        "B": _draw(4, 2, 50, 8),
        "C": _draw(5, 2, 50, 8),
        "D": _draw(6, 32),
        "state": _draw(7, 2, 32, 8),
    }


def _conv_inputs() -> dict[str, Tensor]:
    return {"x": _draw(1, 2, 50, 16), "weight": _draw(2, 16, 4), "bias": _draw(3, 16)}
