"""What autograd is asked for."""

from __future__ import annotations

import torch
from torch import Tensor


def wanted(*tensors: Tensor | None) -> bool:
    """Say whether a gradient by any of these will be asked for."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
