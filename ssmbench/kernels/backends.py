"""Who computes the operations: torch's own forms, the published kernels, or our Triton kernels.

A process has one backend in use; `auto` takes for each operation the first that was seen to
compute it rightly on this machine. A backend offers some operations, and takes some of their
inputs; everything else is computed by the torch form. `recording` tells what was.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ssmbench.errors import PrerequisiteError, UnknownName
from ssmbench.kernels import probing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TORCH, AUTO = "torch", "auto"
NAMES = (AUTO, TORCH, "mamba_ssm", "triton")

OPERATIONS = (
    "ssd",
    "selective_scan",
    "causal_conv",
    "gate",
    "gated_norm",
    "selective_scan_influence",
    "ssd_influence",
)
OFFERS: dict[str, tuple[str, ...]] = {
    "mamba_ssm": ("ssd", "selective_scan", "causal_conv"),
    "triton": OPERATIONS,
}
# What `auto` takes on a GPU, the first that can; the torch form after these.
_ORDER = {
    "ssd": ("mamba_ssm", "triton"),
    "selective_scan": ("triton", "mamba_ssm"),
    "causal_conv": ("mamba_ssm", "triton"),
    "gate": ("triton",),
    "gated_norm": ("triton",),
    "selective_scan_influence": ("triton",),
    "ssd_influence": ("triton",),
}
# Operations that a backend may lack although it was named: causal_conv1d is a package of its own.
_OPTIONAL = frozenset({("mamba_ssm", "causal_conv")})
# What has a backward pass; everything else is computed by the torch form where a gradient is asked
# for. It is tried apart: an operation may be right whose backward pass is not.
GRADIENTS: dict[str, tuple[str, ...]] = {
    "mamba_ssm": ("ssd", "causal_conv"),
    "triton": ("selective_scan", "causal_conv", "gate", "gated_norm"),
}
GRADIENT = " gradient"
# What may write into the state that enters, where its holder allows it.
OVERWRITES = frozenset({("mamba_ssm", "ssd"), ("triton", "ssd"), ("triton", "selective_scan")})
_MODULES = {
    "mamba_ssm": "ssmbench.kernels.on_mamba_ssm",
    "triton": "ssmbench.kernels.on_triton",
}


@dataclass(frozen=True)
class Availability:
    """What a backend can do on a device: operation -> None where it can, else why not.

    A backward pass counts as an operation of its own, `ssd gradient`.
    """

    backend: str
    problems: Mapping[str, str | None]

    @property
    def usable(self) -> bool:
        """Whether it can do anything."""
        return any(self.problems.get(operation, "") is None for operation in OPERATIONS)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it cannot do what it cannot, each reason once."""
        return tuple(dict.fromkeys(p for p in self.problems.values() if p is not None))


@dataclass(frozen=True)
class Choice:
    """A backend in use.

    Attributes:
        name: as it was asked for.
        device: the type of the device, "cpu" or "cuda", whose tensors it takes.
        providers: operation -> the backend that computes it; torch where it is missing.
        gradients: operations whose provider computes gradients as well.
        problems: operation, or its gradient -> why the backend that was named cannot compute it.
        found: what was asked of the backends on the way.
    """

    name: str = TORCH
    device: str = "cpu"
    providers: Mapping[str, str] = field(default_factory=dict)
    gradients: frozenset[str] = frozenset()
    problems: Mapping[str, str] = field(default_factory=dict)
    found: tuple[Availability, ...] = ()


class Record:
    """What computed the operations while it was open."""

    def __init__(self) -> None:
        self._used: dict[str, set[str]] = defaultdict(set)

    def add(self, operation: str, backend: str) -> None:
        """Take in that a backend computed an operation."""
        self._used[operation].add(backend)

    @property
    def text(self) -> str | None:
        """What a result row says.

        `torch` where one computed all, else `ssd: mamba_ssm, causal_conv: torch`, with
        `torch+triton` where several computed one; None where nothing was computed.
        """
        each = {op: "+".join(sorted(self._used[op])) for op in OPERATIONS if op in self._used}
        if len(set(each.values())) <= 1:
            return next(iter(each.values()), None)
        return ", ".join(f"{op}: {backends}" for op, backends in each.items())


_current = Choice()
_records: list[Record] = []


def current() -> Choice:
    """Give the backend in use in this process."""
    return _current


def available(device: str, dtype: str = "float32") -> list[Availability]:
    """Say which backends can do what on a device, by running each in a process of its own.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        dtype: the type of the weights: "float32", "bfloat16" or "float16".

    Returns:
        One for each backend, torch last. Answers are kept for the life of the process.
    """
    found = [_availability(backend, device, dtype) for backend in OFFERS]
    return [*found, Availability(TORCH, dict.fromkeys(OPERATIONS))]


def _availability(backend: str, device: str, dtype: str) -> Availability:
    asked = (*OFFERS[backend], *(operation + GRADIENT for operation in GRADIENTS[backend]))
    why_not = _unfit(backend, device)
    if why_not is not None:
        return Availability(backend, dict.fromkeys(asked, why_not))
    return Availability(backend, probing.problems(backend, asked, device, dtype))


def use(name: str, device: str = "cpu", dtype: str = "float32") -> Choice:
    """Put a backend in use in this process.

    Args:
        name: one of NAMES; `auto` is torch on a CPU.
        device: as for `available`.
        dtype: likewise.

    Raises:
        PrerequisiteError: the backend was named and can compute nothing here.
        UnknownName: there is no such backend.
    """
    global _current
    _current = _chosen(name, device, dtype)
    return _current


@contextlib.contextmanager
def using(name: str, device: str = "cpu", dtype: str = "float32") -> Iterator[Choice]:
    """Put a backend in use, and the one before it back afterwards; see `use`."""
    global _current
    before = _current
    try:
        yield use(name, device, dtype)
    finally:
        _current = before


def _chosen(name: str, device: str, dtype: str) -> Choice:
    kind = device.partition(":")[0]
    if name not in NAMES:
        raise UnknownName("backend", name, NAMES)
    if name == TORCH or (name == AUTO and kind == "cpu"):
        return Choice(name, kind)
    if name == AUTO:
        found = {a.backend: a for a in available(device, dtype)}
        able = {
            operation: [backend for backend in order if found[backend].problems[operation] is None]
            for operation, order in _ORDER.items()
        }
        providers = {operation: each[0] for operation, each in able.items() if each}
        gradients = _gradients(providers, found)
        return Choice(name, kind, providers, gradients, found=tuple(found.values()))
    one = _availability(name, device, dtype)
    if not one.usable:
        raise PrerequisiteError(_cannot(name, "nothing", "; ".join(one.reasons)))
    providers = {op: name for op in OFFERS[name] if one.problems[op] is None}
    problems = {
        op: problem
        for op, problem in one.problems.items()
        if problem is not None and (name, op.removesuffix(GRADIENT)) not in _OPTIONAL
    }
    return Choice(name, kind, providers, _gradients(providers, {name: one}), problems, (one,))


def _gradients(providers: Mapping[str, str], found: Mapping[str, Availability]) -> frozenset[str]:
    """Give the operations whose provider was seen to compute their gradients rightly."""
    return frozenset(
        operation
        for operation, backend in providers.items()
        if operation in GRADIENTS[backend] and found[backend].problems[operation + GRADIENT] is None
    )


def provider(
    operation: str, device: str, *, gradient: bool
) -> tuple[str, Callable[..., Any]] | None:
    """Give the backend that computes an operation, and its function; None for the torch form.

    Args:
        operation: one of OPERATIONS.
        device: the type of the tensors' device.
        gradient: whether one will be asked for.

    Raises:
        PrerequisiteError: the backend was named, offers the operation and cannot compute it here.
    """
    if device != _current.device:
        return None
    for asked in (operation, operation + GRADIENT)[: 1 + gradient]:
        if asked in _current.problems:
            raise PrerequisiteError(_cannot(_current.name, asked, _current.problems[asked]))
    backend = _current.providers.get(operation)
    if backend is None or (gradient and operation not in _current.gradients):
        return None
    return backend, function(backend, operation)


def function(backend: str, operation: str) -> Callable[..., Any]:
    """Give a backend's function for an operation that it offers."""
    found: Callable[..., Any] = getattr(importlib.import_module(_MODULES[backend]), operation)
    return found


def note(operation: str, backend: str) -> None:
    """Tell all open records that a backend computed an operation."""
    for record in _records:
        record.add(operation, backend)


@contextlib.contextmanager
def recording(record: Record | None = None) -> Iterator[Record]:
    """Record what computes the operations; records may be open within one another."""
    record = Record() if record is None else record
    _records.append(record)
    try:
        yield record
    finally:
        _records.remove(record)


def _unfit(backend: str, device: str) -> str | None:
    """Say why a backend cannot run on a kind of device at all."""
    if device != "cpu":
        return None
    if backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return None  # Triton's interpreter: for tests.
    return "it needs a GPU"


def _cannot(name: str, what: str, reason: str) -> str:
    computes = "computes nothing" if what == "nothing" else f"does not compute {what}"
    return (
        f"backend '{name}' {computes} on this machine: {reason}."
        f" See docs/gpu.md, or choose backend: {AUTO}."
    )
