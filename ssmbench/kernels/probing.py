"""Asking whether a backend computes an operation rightly here, in a process of its own.

A compiled kernel may be missing, be built for another torch, crash or hang; nothing less than
running it tells. What ends the child process ends only that answer.

    python -m ssmbench.kernels.probing BACKEND DEVICE DTYPE OPERATION...

prints one line of JSON for each operation, as it goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Upstream's kernels are compiled and tuned at the first call of each shape: minutes, once.
TIMEOUT_S = 600.0
_MARK = "ssmbench-probe "
_MOST_TEXT = 300


_PACKAGES = (
    "torch", "triton", "einops", "mamba_ssm", "selective_scan_cuda", "causal_conv1d",
    "causal_conv1d_cuda",
)  # fmt: skip
# What the same installation answers again; a crash or a timeout may be the moment's.
_LASTING = ("ModuleNotFoundError", "ImportError")


@cache
def problems(
    backend: str, operations: tuple[str, ...], device: str, dtype: str
) -> dict[str, str | None]:
    """Say for each operation why a backend does not compute it on a device; None where it does.

    What will not change is kept on this machine's disk, in the folder for temporary files, until
    one of the packages, the GPU's model or this package's kernels are others.

    Args:
        backend: one of `backends.OFFERS`.
        operations: that it offers; also with `backends.GRADIENT` behind them.
        device: "cpu", "cuda" or "cuda:N".
        dtype: "float32", "bfloat16" or "float16".
    """
    note = _note_of(backend, operations, device, dtype)
    if (known := _read(note, operations)) is not None:
        return known
    found: dict[str, str | None] = {}
    left = list(operations)
    while left:
        answers, end = _asked([backend, device, dtype, *left])
        told = list(answers)
        found |= answers
        if len(told) == len(left):
            break
        # Whatever came next is to blame.
        found[left[len(told)]] = end
        left = left[len(told) + 1 :]
    if all(problem is None or problem.startswith(_LASTING) for problem in found.values()):
        _keep(note, found)
    return found


def _note_of(backend: str, operations: tuple[str, ...], device: str, dtype: str) -> Path:
    """Name the file that holds the answer of this installation and GPU."""
    from torch import cuda

    model = "CPU" if device == "cpu" else cuda.get_device_name(device)
    specs = [importlib.util.find_spec(name) for name in _PACKAGES]
    files = [Path(spec.origin) for spec in specs if spec is not None and spec.origin]
    files += sorted(Path(__file__).parent.rglob("*.py"))
    seen = [(str(file), file.stat().st_mtime_ns) for file in files if file.exists()]
    interpreted = os.environ.get("TRITON_INTERPRET")
    key = [backend, operations, model, dtype, sys.version, sys.executable, interpreted, seen]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"ssmbench-backends-{os.getuid()}" / f"{name}.json"


def _read(note: Path, operations: tuple[str, ...]) -> dict[str, str | None] | None:
    """Give what was kept; None where there is nothing, or nothing to be trusted."""
    try:
        folder = note.parent.lstat()
        if (
            not stat.S_ISDIR(folder.st_mode)
            or folder.st_uid != os.getuid()
            or folder.st_mode & 0o22
        ):
            return None
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and list(found) == list(operations) else None


def _keep(note: Path, found: dict[str, str | None]) -> None:
    # Without a note the next process asks again.
    with contextlib.suppress(OSError):
        note.parent.mkdir(mode=0o700, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(found), encoding="utf-8")
        draft.replace(note)


def _asked(words: Sequence[str]) -> tuple[dict[str, str | None], str]:
    """Run the child; give its answers, and how it ended."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen(
        [sys.executable, "-m", "ssmbench.kernels.probing", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,  # It starts compilers, which must end with it.
    )
    try:
        out, err = child.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _end(child)
        out, err = child.communicate()
        return _answers(out), f"it did not answer within {TIMEOUT_S:.0f} s"
    except BaseException:
        _end(child)
        raise
    return _answers(out), _ending(child.returncode, err)


def _end(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _ending(code: int, err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    last = f": {lines[-1][:_MOST_TEXT]}" if lines else ""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"its process died of {signal.Signals(-code).name}{last}"
    return f"its process ended with exit code {code}{last}"


def _answers(out: str) -> dict[str, str | None]:
    found = {}
    for line in out.splitlines():
        # A library may print as well, also without an end of line.
        _, mark, text = line.partition(_MARK)
        # What dies while it writes leaves half a line.
        with contextlib.suppress(json.JSONDecodeError):
            if mark:
                answer = json.loads(text)
                found[answer["operation"]] = answer["problem"]
    return found


def judge(backend: str, device: str, dtype: str, operations: Iterable[str]) -> None:
    """Run operations in this process and print for each what is wrong with it, or null."""
    for operation in operations:
        answer = {"operation": operation, "problem": _problem(backend, operation, device, dtype)}
        sys.stdout.write(f"\n{_MARK}{json.dumps(answer)}\n")
        sys.stdout.flush()


def _problem(backend: str, operation: str, device: str, dtype: str) -> str | None:
    import torch

    from ssmbench.kernels import backends, check

    try:
        name = operation.removesuffix(backends.GRADIENT)
        compare = check.error if name == operation else check.gradient_error
        fast = backends.function(backend, name)
        kind = getattr(torch, dtype)
        error = compare(name, fast, device, kind)
    except Exception as problem:  # noqa: BLE001 - whatever it is, it is the answer
        return _one_line(problem)
    limit = check.LARGEST_ERRORS[kind]
    # Written so that a NaN is wrong.
    if not error <= limit:
        return f"it is wrong: off by {error:.1e} of the largest value, where {limit:.0e} is allowed"
    return None


def _one_line(error: Any) -> str:
    text = " ".join(str(error).split())[:_MOST_TEXT].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


if __name__ == "__main__":
    judge(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
