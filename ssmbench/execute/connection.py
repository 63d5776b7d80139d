"""How a process comes to a Ray cluster: settings that Ray reads early, reaching, refusing."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from ssmbench.errors import PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 80 * 2**20  # The smallest that Ray takes; only records pass through it.
_REACH_S = 5.0

# Read by Ray when it is imported.
_ENVIRONMENT = {
    # A node that vanishes silently is noticed after 27 s instead of 7 minutes.
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Under `uv run` Ray would install the project anew in every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
# A cluster of this machine alone listens on the loopback address.
_LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Nobody looks at the history of tasks there, and each event costs time between two attempts.
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_timeline": "0",
}


def connect(
    address: str | None,
    scratch: Path | None,
    runtime_env: Mapping[str, Any],
    *,
    local_cpus: int | None,
) -> Any:
    """Join a running cluster, or start one of this machine alone, and give the module `ray`.

    Args:
        address: a cluster's; None to start one.
        scratch: where a cluster that is started here keeps its files.
        runtime_env: what workers are given.
        local_cpus: CPUs of a cluster started here; all of the machine's where None.

    Raises:
        PrerequisiteError: there is no such cluster, or Ray cannot start.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": dict(runtime_env),
    }
    if address is None:
        os.environ.update(_LOCAL_ENVIRONMENT)
        options |= {
            "address": "local",
            "num_cpus": local_cpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_temp_dir": str(scratch),
        }
    else:
        _reach(address)
        options["address"] = address
    import ray

    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise PrerequisiteError(_no_ray(address, error)) from error
    except ray.exceptions.RayError as error:
        raise PrerequisiteError(_no_ray(address, error)) from error
    return ray


def _reach(address: str) -> None:
    """Refuse an address that nobody answers at; Ray itself would try for minutes.

    Raises:
        PrerequisiteError: no connection within a few seconds.
    """
    host, sign, port = address.removeprefix("ray://").rpartition(":")
    if not (sign and port.isdecimal()):
        return
    try:
        with socket.create_connection((host, int(port)), timeout=_REACH_S):
            pass
    except OSError as error:
        raise PrerequisiteError(_no_ray(address, error)) from error


def quieten(printer: Any = None) -> Any:
    """Replace what Ray prints its own messages with; give what it was.

    `log_to_driver` does not cover them: each worker that dies is a paragraph on stdout, in the
    middle of whatever is printed there.
    """
    module = sys.modules.get("ray._private.worker")
    before = getattr(module, "print_to_stdstream", None)
    if before is not None:
        module.print_to_stdstream = printer or _log_message  # type: ignore[union-attr]
    return before


def _log_message(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
    for line in data.get("lines", ()):
        log.debug("Ray: %s", line)


def _no_ray(address: str | None, error: BaseException) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if address is None:
        return f"Ray cannot start on this machine: {reason} Or run with --inline."
    hint = "Start one with `ray up cluster.yaml` or leave --address out."
    if type(error).__name__ == "AuthenticationError":
        hint = "Set RAY_AUTH_MODE and RAY_AUTH_TOKEN (or ~/.ray/auth_token) as on the cluster."
    return f"--address {address}: found no Ray cluster ({reason}). {hint}"
