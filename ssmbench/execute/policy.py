"""What an attempt's error means and what follows from it, as one table and two rules.

The driver owns all retries; Ray's own are off, since they are blind to these classes and,
for a worker out of memory, uncounted.

What follows for more than the cell:

- A machine that SUSPECT_CELLS different cells failed on by its fault, with no success in
  between, is quarantined: nothing more is given to it. Cells that failed elsewhere too do not
  count, and the last machine that fits is never quarantined: there, as many cells that have
  used up their retries end the run.
- A method that fails alike on POISON_NODES machines, and has not brought a number yet, is
  poisoned: its other cells are not tried. If all those failures are of one model, only the
  cells of that model are stopped.
"""

from __future__ import annotations

import errno
import math
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from ssmbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

ErrorClass = Literal[
    "user",
    "numerical",
    "gpu_oom",
    "host_oom",
    "crashed",
    "node_lost",
    "preempted",
    "disk_full",
    "timeout",
    "hub",
    "bug",
    "poisoned",
    "cancelled",
]
# What has become of the machine of an attempt that died: it is there; it was told to leave, or
# left in order; it vanished.
Fate = Literal["alive", "leaving", "lost"]


class Rule(NamedTuple):
    """What follows from an error class.

    `retries` is a budget of its own per class and cell; `wait_s` is the pause before the
    first retry and doubles with each; `change` is what the next attempt does otherwise;
    `blames` is what a series of such errors speaks against.
    """

    retries: float
    wait_s: float
    change: Literal["nothing", "halve_batch", "more_memory", "elsewhere"]
    blames: Literal["cell", "node", "method"]
    meaning: str


# fmt: off
POLICY: dict[ErrorClass, Rule] = {
    "user": Rule(0, 0, "nothing", "method",
        "the grid, the model folder or the data asks for the impossible"),
    # A NaN at one ratio says nothing about another ratio.
    "numerical": Rule(0, 0, "nothing", "cell",
        "a value is NaN or infinite where a number is needed"),
    "gpu_oom": Rule(2, 0, "halve_batch", "cell", "the accelerator's memory is full"),
    "host_oom": Rule(1, 5, "more_memory", "cell", "the machine's memory is full"),
    "crashed": Rule(3, 1, "elsewhere", "node", "the worker process died"),
    "node_lost": Rule(3, 5, "elsewhere", "node", "the machine left the cluster"),
    "preempted": Rule(math.inf, 0, "elsewhere", "cell", "the machine was taken away in order"),
    "disk_full": Rule(3, 30, "elsewhere", "node", "no room for a file"),
    "timeout": Rule(0, 0, "nothing", "cell", "the attempt ran past the grid's timeout"),
    "hub": Rule(3, 5, "nothing", "cell", "a download failed"),
    "bug": Rule(0, 0, "nothing", "method", "an exception that the program does not know"),
    "poisoned": Rule(0, 0, "nothing", "cell", "not tried: its method failed alike elsewhere"),
    "cancelled": Rule(0, 0, "nothing", "cell", "stopped on request; still to do"),
}
# fmt: on

SUSPECT_CELLS = 3
POISON_NODES = 2

# An attempt that gave no sign of life for this long is given up, seconds: where its machine
# does not answer either, and where it does.
SILENT_UNREACHABLE_S = 15.0
SILENT_S = 75.0
# One that was told to end and is still there is given up after this.
OVERDUE_S = 30.0
# A machine has more memory than another, and not just another label, from this factor on.
MORE_MEMORY = 1.25
# The smallest batch that a halving may lead to: below one long document nothing is gained.
MIN_BATCH_TOKENS = 64

# Looked up for each class of an exception's ancestry, nearest first, so neither torch nor
# Ray nor a hub library is imported to ask "is it one of yours?".
_BY_NAME: dict[str, ErrorClass] = {
    "ssmbench.errors.NumericalError": "numerical",
    "ssmbench.errors.UnreachableError": "hub",
    "ssmbench.errors.SsmbenchError": "user",
    "builtins.FloatingPointError": "numerical",
    "torch._C._LinAlgError": "numerical",
    "torch.linalg.LinAlgError": "numerical",
    "torch.OutOfMemoryError": "gpu_oom",
    "torch.cuda.OutOfMemoryError": "gpu_oom",
    "builtins.MemoryError": "host_oom",
    "ray.exceptions.OutOfMemoryError": "host_oom",
    "ray.exceptions.NodeDiedError": "node_lost",
    "ray.exceptions.LocalRayletDiedError": "node_lost",
    "ray.exceptions.ObjectLostError": "node_lost",
    "ray.exceptions.TaskUnschedulableError": "node_lost",
    "ray.exceptions.TaskCancelledError": "cancelled",
    "ray.exceptions.WorkerCrashedError": "crashed",
    "ray.exceptions.RuntimeEnvSetupError": "crashed",
    "ray.exceptions.RaySystemError": "crashed",
    "ssmbench.execute.inline.DeadlineError": "timeout",
    "builtins.KeyboardInterrupt": "cancelled",
    # Asking again brings neither a repository that is not there nor a permission.
    "huggingface_hub.errors.RepositoryNotFoundError": "user",
    "huggingface_hub.errors.RevisionNotFoundError": "user",
    "huggingface_hub.errors.EntryNotFoundError": "user",
    "huggingface_hub.errors.OfflineModeIsEnabled": "user",
    "huggingface_hub.errors.LocalEntryNotFoundError": "hub",
    "builtins.ConnectionError": "hub",
    "builtins.TimeoutError": "hub",
}
_BY_PACKAGE: dict[str, ErrorClass] = {
    "huggingface_hub": "hub",
    "requests": "hub",
    "httpx": "hub",
    "httpx2": "hub",
    "httpcore": "hub",
    "urllib3": "hub",
    "aiohttp": "hub",
}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
# Libraries raise plain RuntimeError for these.
_BY_TEXT: tuple[tuple[str, ErrorClass], ...] = (
    ("CUDA out of memory", "gpu_oom"),
    ("CUBLAS_STATUS_ALLOC_FAILED", "gpu_oom"),
    ("DefaultCPUAllocator: can't allocate memory", "host_oom"),
    ("Cannot allocate memory", "host_oom"),
)
# Ray's own texts are paragraphs about Ray.
_MESSAGES: dict[ErrorClass, str] = {
    "crashed": "the worker process died (killed, or a crash in native code)",
    "node_lost": "the machine that ran it left the cluster",
    "cancelled": "cancelled",
}


def classify(error: BaseException) -> ErrorClass:
    """Give the error's class by its type, its ancestors', its text, then its causes'."""
    if any(isinstance(e, OSError) and e.errno in _NO_ROOM for e in _chain(error)):
        return "disk_full"
    found = [kind for candidate in _chain(error) if (kind := _own_class(candidate)) is not None]
    if not found:
        return "bug"
    # A data set or model that could not be had because a download failed may be had later.
    if type(_innermost(error)) is DataError and found[1:2] == ["hub"]:
        return "hub"
    return found[0]


def message_of(error: BaseException) -> str:
    """Say what happened in one line, for tables and the terminal.

    The whole text of user errors is kept (they are written to be read); of others the first
    line that is not empty, after the type's name.
    """
    error = _innermost(error)
    kind = classify(error)
    text = str(error).strip()
    if type(error).__module__.startswith("ray."):
        if kind == "host_oom":
            return "the machine ran out of memory and Ray ended the worker"
        if kind in _MESSAGES:
            return _MESSAGES[kind]
    if type(error).__module__ == "ssmbench.errors":
        return " ".join(text.split())
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    name = type(error).__name__
    return f"{name}: {first}" if first else name


def in_view_of(kind: ErrorClass, fate: Fate | None) -> ErrorClass:
    """Correct a class by what has become of the machine: a worker may die just before it."""
    if kind in {"crashed", "node_lost"} and fate == "leaving":
        return "preempted"
    return "node_lost" if kind == "crashed" and fate == "lost" else kind


def signature(kind: ErrorClass, message: str) -> str:
    """Give what errors of one cause have in common: the message without numbers and names."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*", "…", message)
    return f"{kind}: {re.sub(r'[0-9][0-9.,]*', '#', text)[:200]}"


def halved(batch_tokens: int) -> int:
    """Give the batch for a retry after memory ran out."""
    return max(MIN_BATCH_TOKENS, batch_tokens // 2)


def wait_s(error_class: ErrorClass, n_retries_before: int) -> float:
    """Give the pause before the next retry: doubled with each that went before."""
    return POLICY[error_class].wait_s * float(2**n_retries_before)


def _own_class(error: BaseException) -> ErrorClass | None:
    for ancestor in type(error).__mro__:
        name = f"{ancestor.__module__}.{ancestor.__qualname__}"
        if name in _BY_NAME:
            return _BY_NAME[name]
        package = ancestor.__module__.partition(".")[0]
        if package in _BY_PACKAGE:
            return _BY_PACKAGE[package]
    return next((kind for mark, kind in _BY_TEXT if mark in str(error)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised from, nearest first, each once."""
    seen: set[int] = set()
    current: BaseException | None = _innermost(error)
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__


def _innermost(error: BaseException) -> BaseException:
    """Unwrap Ray's RayTaskError, which carries the worker's exception as `cause`."""
    cause = getattr(error, "cause", None)
    if type(error).__name__.startswith("RayTaskError") and isinstance(cause, BaseException):
        return cause
    return error
