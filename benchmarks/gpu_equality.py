"""How far a model's logits and gradients on a backend are from the processor's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ssmbench.errors import PrerequisiteError
from ssmbench.kernels import backends
from ssmbench.models.forest import Forest

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder


def logits_error(
    model: Decoder, ids: torch.Tensor, expected: torch.Tensor, backend: str, dtype: str
) -> tuple[float | None, str | None]:
    """Give the largest error of logits as a part of their deviation, or why there are none."""
    device = str(model.device)
    try:
        with backends.using(backend, device, dtype), torch.inference_mode():
            # A fork, so that states are carried: half is read first.
            half = ids.shape[1] // 2
            moved = ids.to(device)
            first, state = model.hidden(Forest.batch(moved[:, :half]))
            second, _ = model.hidden(Forest.batch(moved[:, half:]), state)
            parts = [
                model.logits(h).view(len(ids), -1, expected.shape[-1]) for h in (first, second)
            ]
            found = torch.cat(parts, 1).cpu()
    except PrerequisiteError as error:
        return None, str(error)
    return float((found - expected).abs().max() / expected.std()), None


def gradients(model: Decoder, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Give the gradients of all parameters, on the processor."""
    model.requires_grad_()
    logs = torch.log_softmax(model(ids.to(model.device)), -1)[:, :-1]
    loss = -logs.gather(-1, ids.to(model.device)[:, 1:, None]).mean()
    loss.backward()
    found = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    model.requires_grad_(requires_grad=False)
    return found


def gradients_error(
    model: Decoder, ids: torch.Tensor, expected: dict[str, torch.Tensor], backend: str
) -> tuple[float | None, str | None]:
    """Give the largest error of a parameter's gradient as a part of its largest value."""
    try:
        with backends.using(backend, str(model.device), "float32"):
            found = gradients(model, ids)
    except PrerequisiteError as error:
        return None, str(error)
    errors = [
        float((found[name] - its).abs().max() / its.abs().max().clamp_min(1e-12))
        for name, its in expected.items()
    ]
    return max(errors), None
