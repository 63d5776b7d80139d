"""Runs attempts as Ray tasks: one process each, on this machine or on a cluster.

Ray retries nothing here (`max_retries=0`): the driver does, by class of error. A task with
resources that no node has would wait for ever without a word, so they are checked first.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from ssmbench.errors import PrerequisiteError
from ssmbench.execute import isolation, nodes, worker
from ssmbench.execute.executor import ATTEMPT, Ended, Step
from ssmbench.execute.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.execute.job import Job
    from ssmbench.plan.cells import Resources

log = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 80 * 2**20  # The smallest that Ray takes; only records pass through it.
_CLOSE_WAIT_S = 5.0
_REACH_S = 5.0
_NODES_EVERY_S = 10.0

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
_LOCAL_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class RayExecutor:
    """Attempts as Ray tasks, on a cluster of this machine alone or an existing one."""

    captures = True

    def __init__(
        self,
        *,
        address: str | None = None,
        num_cpus: float = 1,
        isolate: bool = True,
        data: str | None = None,
        offline: bool = False,
        target: str = ATTEMPT,
        local_cpus: int | None = None,
    ) -> None:
        """Start Ray here, or join a running cluster, or the one this process is connected to.

        Args:
            address: a cluster's ("auto" for the one that this machine belongs to); None to
                start one of this machine's CPUs and GPUs, which ends with this process.
            num_cpus: what most attempts ask for; others need a worker of their own.
            isolate: give every attempt a fresh process.
            data: the folder of local task data, for the workers' environment.
            offline: nothing may be asked of the hub.
            target: what runs a job, as "module:function".
            local_cpus: CPUs of a cluster started here; all of the machine's where None.

        Raises:
            PrerequisiteError: there is no such cluster, or Ray cannot start.
        """
        self._data, self._offline, self._target = data, offline, target
        self._num_cpus = num_cpus
        self._scratch: Scratch | None = None
        self._refs: dict[Any, str] = {}
        self._snapshot: Any = None
        self._steps: dict[str, Step] = {}
        connected: Any = sys.modules.get("ray")
        self._owns = connected is None or not connected.is_initialized()
        ray: Any = self._connect(address, local_cpus) if self._owns else connected
        self._ray = ray
        # max_calls cannot be set per call: it ends the worker after one attempt.
        self._task = ray.remote(max_calls=1 if isolate else 0, max_retries=0)(worker.work)
        self._board = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(
            worker.Board
        ).remote()
        self._print = _quieten()
        self._nodes: list[dict[str, Any]] = []
        self._nodes_s = -math.inf

    @property
    def dies_with_driver(self) -> bool:
        """A cluster that was started here ends with this process, however it ends."""
        return self._owns

    def check(self, resources: Resources) -> str | None:
        """Compare with the nodes that are there now."""
        alive = self._alive()
        if any(nodes.fits(node, resources) for node in alive):
            return None
        return f"asked for {nodes.asked(resources)}; found {nodes.found(alive)}"

    def slots(self, resources: Resources) -> int:
        """Add up what the nodes that fit can hold at once."""
        return sum(nodes.capacity(n, resources) for n in self._alive() if nodes.fits(n, resources))

    def submit(self, job: Job, resources: Resources) -> None:
        """Hand the job to Ray; a timing attempt takes all CPUs of its machine.

        Timing runs on those fitting machines that have the most CPUs: asking for all of them
        is what keeps others away.
        """
        options: dict[str, Any] = {"name": job.cell.label, **nodes.options(resources)}
        if job.kind == "timing":
            fitting = [n for n in self._alive() if nodes.fits(n, resources)]
            sizes = (n["Resources"].get("CPU", 0) for n in fitting)
            options["num_cpus"] = max(sizes, default=resources.num_cpus)
        if resources.num_cpus != self._num_cpus or not self._owns:
            options["runtime_env"] = self._runtime_env(resources.num_cpus)
        reference = self._task.options(**options).remote(self._target, job.to_json(), self._board)
        self._refs[reference] = job.attempt_id

    def poll(self, timeout_s: float) -> list[Ended]:
        """Wait for tasks to end; a task's exception means that its process is gone."""
        ray = self._ray
        if not self._refs:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(self._refs), num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready:
            # Others may be ready as well: take them all at once.
            ready, _ = ray.wait(
                list(self._refs), num_returns=len(self._refs), timeout=0, fetch_local=False
            )
        return [self._ended(reference) for reference in ready]

    def cancel(self, attempt_id: str, *, force: bool) -> None:
        """Cancel a task. Without `force` it must still be queued: native code ignores it."""
        for reference, name in self._refs.items():
            if name == attempt_id:
                self._ray.cancel(reference, force=force)

    def steps(self) -> Mapping[str, Step]:
        """Give the board's last snapshot and ask for the next, without waiting for it."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            if self._snapshot is None:
                self._snapshot = self._board.snapshot.remote()
            ready, _ = self._ray.wait([self._snapshot], timeout=0)
            if ready:
                reference, self._snapshot = self._snapshot, None
                found = self._ray.get(reference)
                self._steps = {k: Step(*v) for k, v in found.items()}
        return self._steps

    def close(self) -> None:
        """Cancel what still runs and leave Ray; a cluster started here is gone with it."""
        for reference in self._refs:
            self._ray.cancel(reference, force=True)
        if self._refs:
            # Without this, a shutdown at once may leave a worker running for seconds.
            self._ray.wait(list(self._refs), num_returns=len(self._refs), timeout=_CLOSE_WAIT_S)
        self._refs.clear()
        _quieten(self._print)
        if not self._owns:
            self._ray.kill(self._board)
            return
        self._ray.shutdown()
        if self._scratch is not None:
            self._scratch.close()

    def _alive(self) -> list[dict[str, Any]]:
        """Give the cluster's machines; they come and go, so they are asked for now and then."""
        now = time.monotonic()
        if now - self._nodes_s > _NODES_EVERY_S:
            self._nodes_s = now
            self._nodes = [node for node in self._ray.nodes() if node["Alive"]]
        return self._nodes

    def _ended(self, reference: Any) -> Ended:
        attempt_id = self._refs.pop(reference)
        try:
            return Ended(attempt_id, self._ray.get(reference), None)
        except self._ray.exceptions.RayError as error:
            return Ended(attempt_id, None, error)

    def _runtime_env(self, num_cpus: float) -> dict[str, Any]:
        found = isolation.variables(num_cpus=num_cpus, data=self._data, offline=self._offline)
        if self._scratch is not None:
            # A killed worker leaves its temporary files; they go with the cluster's folder.
            found["TMPDIR"] = str(self._scratch.path)
        return {"env_vars": found}

    def _connect(self, address: str | None, local_cpus: int | None) -> Any:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            os.environ.update(_LOCAL_ENVIRONMENT)
            self._scratch = Scratch()
            options |= {
                "address": "local",
                "num_cpus": local_cpus,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_temp_dir": str(self._scratch.path),
            }
        else:
            _reach(address)
            options["address"] = address
        options["runtime_env"] = self._runtime_env(self._num_cpus)
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


def _quieten(printer: Any = None) -> Any:
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
