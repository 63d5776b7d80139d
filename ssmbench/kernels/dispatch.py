"""The operations as models call them: each goes to the backend in use, else to the torch form.

Inputs may be stored in half precision; the torch forms of the scans compute in float32.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ssmbench.kernels import autograd, backends, conv, influence
from ssmbench.kernels import gate as gating
from ssmbench.kernels import selective_scan as scan_of_mamba1
from ssmbench.kernels import ssd as scan_of_mamba2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from torch import Tensor

    from ssmbench.kernels.influence import Aggregate


def ssd(
    x: Tensor,
    log_decay: Tensor,
    in_weight: Tensor | None,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
    rates: Tensor | None = None,
    ends: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scan rows of Mamba-2 and its relatives; see `kernels.ssd`.

    Args:
        x: (batch, length, H, P), float32 or narrower.
        log_decay: (batch, length, H), ≤ 0, float32.
        in_weight: (batch, length, H), float32, or None.
        B: (batch, length, G, N), in x's dtype.
        C: (batch, length, G, N), in x's dtype.
        D: (H,), float32, or None.
        state: (batch, H, P, N), float32; None stands for zeros.
        rates: (H,), where log_decay is in_weight · rates; None where it is not.
        ends: the state after is not wanted; what is given then has no meaning.

    Returns:
        y (batch, length, H, P), in x's dtype or float32, and the state after, float32.
    """
    given = (x, log_decay, in_weight, B, C)
    how: dict[str, Any] = {"D": D, "state": state} | _overwrites("ssd")
    if rates is not None and backends.current().providers.get("ssd") == "mamba_ssm":
        how["rates"] = rates
    found = _computed("ssd", (*given, D, state), *given, **how)
    if found is None:
        wide = (t.float() for t in (B, C))
        return scan_of_mamba2.ssd(
            x.float(), log_decay, in_weight, *wide, D=D, state=state, ends=ends
        )
    y, left = found
    return y, left


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan rows of Mamba-1; see `kernels.selective_scan`.

    Args:
        u: (batch, length, E), float32 or narrower.
        dt: (batch, length, E), ≥ 0, float32.
        A: (E, N), < 0, float32.
        B: (batch, length, N), in u's dtype.
        C: (batch, length, N), in u's dtype.
        D: (E,), float32, or None.
        state: (batch, E, N), float32; None stands for zeros.

    Returns:
        y (batch, length, E), in u's dtype or float32, and the state after, float32.
    """
    given = (u, dt, A, B, C)
    how = {"D": D, "state": state} | _overwrites("selective_scan")
    found = _computed("selective_scan", (*given, D, state), *given, **how)
    if found is None:
        wide = (t.float() for t in (B, C))
        return scan_of_mamba1.selective_scan(u.float(), dt, A, *wide, D=D, state=state)
    y, left = found
    return y, left


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None = None
) -> Tensor:
    """Convolve (batch, length, channels); see `kernels.conv`."""
    found = _computed("causal_conv", (x, weight, bias, tail), x, weight, bias, tail)
    if found is None:
        return conv.causal_conv(x, weight, bias, tail)
    y: Tensor = found
    return y


def gate(y: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
    """Give y · silu(z), both (tokens, E), in a dtype; see `kernels.gate`."""
    found = _computed("gate", (y, z), y, z, dtype)
    if found is None:
        return gating.gate(y.float(), z.float()).to(dtype)
    gated: Tensor = found
    return gated


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float, n_groups: int = 1) -> Tensor:
    """Gate (tokens, E) and scale each group to unit RMS, in weight's dtype; see `kernels.gate`."""
    found = _computed("gated_norm", (y, z, weight), y, z, weight, eps, n_groups)
    if found is None:
        return gating.gated_norm(y.float(), z.float(), weight, eps, n_groups)
    normed: Tensor = found
    return normed


def selective_scan_influence(
    u: Tensor,
    dt: Tensor,
    decay_dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    lengths: Tensor | None = None,
    aggregate: Aggregate = "max",
    log: bool = True,
    n_kept: Sequence[int] | None = None,
) -> Tensor:
    """Score the tokens of Mamba-1 rows; see `kernels.influence`."""
    tensors = (u, dt, decay_dt, A, B, C)
    how: dict[str, Any] = {"lengths": lengths, "aggregate": aggregate, "log": log, "n_kept": n_kept}
    found = _computed("selective_scan_influence", tensors, *tensors, **how)
    if found is None:
        return influence.selective_scan_influence(*tensors, **how)
    scores: Tensor = found
    return scores


def ssd_influence(
    x: Tensor,
    in_weight: Tensor | None,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    lengths: Tensor | None = None,
    aggregate: Aggregate = "max",
    log: bool = True,
) -> Tensor:
    """Score the tokens of Mamba-2 rows, and of its relatives'; see `kernels.influence`."""
    how: dict[str, Any] = {"lengths": lengths, "aggregate": aggregate, "log": log}
    tensors = (x, in_weight, log_decay, B, C)
    found = _computed("ssd_influence", tensors, *tensors, **how)
    if found is None:
        return influence.ssd_influence(*tensors, **how)
    scores: Tensor = found
    return scores


@contextmanager
def overwriting_states() -> Iterator[None]:
    """Let scans write into the states that they are given, for whoever alone holds them.

    A backend that can then gives the same tensor back, and spares a large copy; others give a new
    one, as always.
    """
    global _overwriting
    before, _overwriting = _overwriting, True
    try:
        yield
    finally:
        _overwriting = before


_overwriting = False


def _overwrites(operation: str) -> dict[str, Any]:
    """Say that the state may be written into, to a backend that knows how."""
    backend = backends.current().providers.get(operation)
    allowed = _overwriting and (backend, operation) in backends.OVERWRITES
    return {"overwrite": True} if allowed else {}


def _computed(operation: str, tensors: tuple[Tensor | None, ...], *args: Any, **kwargs: Any) -> Any:
    """Compute an operation on the backend in use; None where the torch form is to."""
    device = tensors[0].device.type if tensors[0] is not None else "cpu"
    offer = backends.provider(operation, device, gradient=autograd.wanted(*tensors))
    found = None if offer is None else offer[1](*args, **kwargs)
    backends.note(operation, backends.TORCH if offer is None or found is None else offer[0])
    return found
