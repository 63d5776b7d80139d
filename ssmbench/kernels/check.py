"""Whether an operation computes on a device what its naive twin computes on the processor."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from ssmbench.kernels import backends, dispatch, influence, naive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

# What a right device stays far below: float32 with matrix products in float32, and half precision
# whose outputs, and the states between chunks, are rounded.
LARGEST_ERRORS = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}
LARGEST_ERROR = LARGEST_ERRORS[torch.float32]

_TWINS: dict[str, Callable[..., Any]] = {
    "ssd": naive.ssd,
    "selective_scan": naive.selective_scan,
    "causal_conv": naive.causal_conv,
    "gate": naive.gate,
    "gated_norm": naive.gated_norm,
    "selective_scan_influence": influence.selective_scan_influence,
    "ssd_influence": influence.ssd_influence,
}
# What is stored in the weights' type; steps, rates and states are float32.
_STORED = frozenset({"x", "u", "B", "C", "y", "z", "weight", "bias", "tail"})


def errors(device: str) -> dict[str, float]:
    """Run each operation on the backend in use, in float32, and its twin in float64 on the CPU.

    Args:
        device: "cpu", "cuda" or "cuda:N".

    Returns:
        For each the largest difference, as a part of the twin's largest value.

    Raises:
        RuntimeError: the device cannot run it.
    """
    return {
        operation: error(operation, getattr(dispatch, operation), device)
        for operation in backends.OPERATIONS
    }


def error(
    operation: str,
    fast: Callable[..., Any],
    device: str,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Give the largest difference to the twin over several shapes, as a part of its largest value.

    The shapes are odd: long and single rows, sizes that no tile divides, with a state and without,
    also one that several rows share.

    Args:
        operation: one of `backends.OPERATIONS`.
        fast: what computes it; it may give None where it does not take such inputs.
        device: where.
        dtype: the type of weights and activations.

    Raises:
        RuntimeError: it cannot run there, or takes none of the inputs.
    """
    found = []
    for inputs in _cases(operation, dtype):
        with torch.no_grad():
            expected = _TWINS[operation](**{k: _wide(v) for k, v in inputs.items() if k != "rates"})
            there = {k: _moved(v, device) for k, v in inputs.items() if _known(k, fast)}
            given = fast(**there)
        if given is not None:
            pairs = zip(_several(given), _several(expected), strict=True)
            found += [_difference(a, b) for a, b in pairs]
    return _largest(operation, found)


def gradient_error(
    operation: str,
    fast: Callable[..., Any],
    device: str,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Give the largest difference of gradients, each as a part of the twin's largest value.

    The twin's are autograd's, in float64. Only the first shapes: upstream tunes its backward pass
    of SSD for each of them, for minutes.

    Args:
        operation: as for `error`.
        fast: as there; it has a backward pass.
        device: where.
        dtype: the type of weights and activations.

    Raises:
        RuntimeError: it cannot run there, or takes none of the inputs.
    """
    found = []
    for inputs in islice(_cases(operation, dtype), 1 if operation == "ssd" else 2):
        there = {k: _moved(v, device) for k, v in inputs.items()}
        given = _gradients(fast, there)
        if given is not None:
            expected = _gradients(_TWINS[operation], {k: _wide(v) for k, v in inputs.items()})
            assert expected is not None
            found += [_difference(given[name], expected[name]) for name in expected]
    return _largest(operation, found)


def _gradients(function: Callable[..., Any], inputs: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Give the gradients of a sum of what a function gives; None where it takes no such inputs."""
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    given: dict[str, Any] = {**inputs, **leaves}
    if "rates" in leaves:
        given["log_decay"] = leaves["in_weight"] * leaves["rates"]
        del leaves["log_decay"]
    with torch.enable_grad():
        outputs = function(**{k: v for k, v in given.items() if _known(k, function)})
        if outputs is None:
            return None
        totals = [(y.double() * _weights(y)).sum() for y in _several(outputs)]
    found = torch.autograd.grad(totals, list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def _weights(y: Tensor) -> Tensor:
    """Give each element of an output a weight of its own, which bfloat16 holds exactly."""
    count = torch.arange(y.numel(), dtype=torch.float64, device=y.device)
    return ((1.7 * count).cos() * 64).round().view(y.shape) / 64


def _several(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, torch.Tensor) else outputs


def _largest(operation: str, found: list[float]) -> float:
    if not found:
        raise RuntimeError(f"{operation} takes none of the inputs")
    return max(found, key=lambda e: (e != e, e))  # A NaN is the largest.


def _difference(found: Tensor, expected: Tensor) -> float:
    largest = expected.abs().max().clamp(min=1e-30)
    return float((found.cpu().double() - expected).abs().max() / largest)


def _known(name: str, fast: Callable[..., Any]) -> bool:
    """Say whether a function takes an input: `rates` is only for some."""
    return name != "rates" or "rates" in fast.__code__.co_varnames


def _wide(value: Any) -> Any:
    floats = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if floats else value


def _moved(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _cases(operation: str, dtype: torch.dtype) -> Iterator[Mapping[str, Any]]:
    """Draw inputs in the types that a model of a type has them in."""
    draw = _Draw()
    for inputs in _INPUTS[operation](draw):
        yield {
            name: value.to(dtype if name in _STORED else torch.float32)
            if isinstance(value, torch.Tensor) and value.is_floating_point()
            else value
            for name, value in inputs.items()
        }


class _Draw:
    """Random float64 tensors, the same in every process."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=torch.float64)

    def step(self, *shape: int) -> Tensor:
        # Rounded now, so that what is computed from it agrees in either precision.
        return torch.nn.functional.softplus(self(*shape)).float().double()


def _ssd_inputs(draw: _Draw) -> Iterator[dict[str, Any]]:
    for length, heads, p, groups, n in ((100, 4, 12, 2, 20), (1, 4, 12, 2, 20), (6, 3, 16, 1, 16)):
        step = draw.step(2, length, heads)
        rates = -(draw(heads).abs() + 0.1).float().double()
        fork = draw(1, heads, p, n).expand(2, -1, -1, -1)
        yield {
            "x": draw(2, length, heads, p),
            "log_decay": step * rates,
            "in_weight": step,
            "B": draw(2, length, groups, n),
            "C": draw(2, length, groups, n),
            "D": draw(heads),
            "state": draw(2, heads, p, n) if length > 1 else fork,
            "rates": rates,
        }
    yield {
        "x": draw(2, 9, 3, 8),
        "log_decay": -draw.step(2, 9, 3),
        "in_weight": None,
        "B": draw(2, 9, 3, 8),
        "C": draw(2, 9, 3, 8),
    }


def _scan_inputs(draw: _Draw) -> Iterator[dict[str, Any]]:
    for length, n in ((50, 8), (1, 8), (7, 17)):
        yield {
            "u": draw(2, length, 33),
            "dt": draw.step(2, length, 33),
            "A": -(draw(33, n).abs() + 0.1),
            "B": draw(2, length, n),
            "C": draw(2, length, n),
            "D": draw(33),
            "state": None if length == 7 else draw(1, 33, n).expand(2, -1, -1),
        }


def _conv_inputs(draw: _Draw) -> Iterator[dict[str, Any]]:
    for length, channels in ((50, 16), (1, 16), (5, 21)):
        yield {
            "x": draw(2, length, channels),
            "weight": draw(channels, 4),
            "bias": None if length == 5 else draw(channels),
            "tail": None if length == 50 else draw(2, 3, channels),
        }


def _gate_inputs(draw: _Draw) -> Iterator[dict[str, Any]]:
    for tokens, channels in ((7, 40), (1, 33)):
        yield {"y": draw(tokens, channels), "z": draw(tokens, channels), "dtype": torch.float32}


def _gated_norm_inputs(draw: _Draw) -> Iterator[dict[str, Any]]:
    for tokens, channels, groups in ((7, 40, 1), (3, 42, 2)):
        yield {
            "y": draw(tokens, channels),
            "z": draw(tokens, channels),
            "weight": draw(channels),
            "eps": 1e-5,
            "n_groups": groups,
        }


def _scan_influence_inputs(draw: _Draw) -> Iterator[dict[str, Any]]:
    for lengths in (None, torch.tensor([40, 23])):
        yield {
            "u": draw(2, 40, 33),
            "dt": draw.step(2, 40, 33),
            "decay_dt": draw.step(2, 40, 33),
            "A": -(draw(33, 8).abs() + 0.1),
            "B": draw(2, 40, 8),
            "C": draw(2, 40, 8),
            "lengths": lengths,
            "aggregate": "absmax",
        }


def _ssd_influence_inputs(draw: _Draw) -> Iterator[dict[str, Any]]:
    for lengths in (None, torch.tensor([40, 23])):
        yield {
            "x": draw(2, 40, 4, 12),
            "in_weight": draw.step(2, 40, 4),
            "log_decay": -draw.step(2, 40, 4),
            "B": draw(2, 40, 2, 20),
            "C": draw(2, 40, 2, 20),
            "lengths": lengths,
            "aggregate": "absmax",
        }


_INPUTS: dict[str, Callable[[_Draw], Iterator[dict[str, Any]]]] = {
    "ssd": _ssd_inputs,
    "selective_scan": _scan_inputs,
    "causal_conv": _conv_inputs,
    "gate": _gate_inputs,
    "gated_norm": _gated_norm_inputs,
    "selective_scan_influence": _scan_influence_inputs,
    "ssd_influence": _ssd_influence_inputs,
}
