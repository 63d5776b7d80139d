"""What an attempt's error means and what follows from it, as one table.

The driver owns all retries; Ray's own are off, since they are blind to these classes and,
for a worker out of memory, uncounted.
"""

from __future__ import annotations

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
    "timeout",
    "hub",
    "bug",
    "cancelled",
]


class Rule(NamedTuple):
    """What follows from an error class.

    `retries` is a budget of its own per class and cell; `wait_s` is the pause before the
    first retry and doubles with each; `change` is what the next attempt does otherwise.
    """

    retries: int
    wait_s: float
    change: Literal["nothing", "halve_batch"]
    meaning: str


POLICY: dict[ErrorClass, Rule] = {
    "user": Rule(0, 0, "nothing", "the grid, the model folder or the data asks for the impossible"),
    "numerical": Rule(0, 0, "nothing", "a value is NaN or infinite where a number is needed"),
    "gpu_oom": Rule(2, 0, "halve_batch", "the accelerator's memory is full"),
    "host_oom": Rule(1, 5, "halve_batch", "the machine's memory is full"),
    "crashed": Rule(3, 1, "nothing", "the worker process died"),
    "node_lost": Rule(3, 5, "nothing", "the machine left the cluster"),
    "timeout": Rule(0, 0, "nothing", "the attempt ran past the grid's timeout"),
    "hub": Rule(3, 5, "nothing", "a download failed"),
    "bug": Rule(0, 0, "nothing", "an exception that the program does not know"),
    "cancelled": Rule(0, 0, "nothing", "stopped on request; still to do"),
}

# The smallest batch that a halving may lead to: below one long document nothing is gained.
MIN_BATCH_TOKENS = 64

# Looked up for each class of an exception's ancestry, nearest first, so neither torch nor
# Ray nor a hub library is imported to ask "is it one of yours?".
_BY_NAME: dict[str, ErrorClass] = {
    "ssmbench.errors.NumericalError": "numerical",
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
