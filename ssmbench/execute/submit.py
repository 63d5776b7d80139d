"""`ssmbench submit`: hand a grid to a Ray cluster, whose head then drives it.

The grid and the files that it names beside itself travel with the job. Everything else is named
as the cluster sees it.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ssmbench import console
from ssmbench.errors import (
    CANNOT_RUN,
    DONE,
    SOME_FAILED,
    CommandError,
    PrerequisiteError,
)
from ssmbench.execute import parcel
from ssmbench.execute.prepare import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
_REACH_S = 5.0
_POLL_S = 0.5


@dataclass(frozen=True)
class Submission:
    """A `run` on a cluster.

    Attributes:
        grid: the grid file, on this machine.
        out: the run folder as every machine of the cluster sees it: absolute, or an address.
        address: the cluster's dashboard; http://127.0.0.1:8265, where `ray dashboard` brings
            it, or what RAY_API_SERVER_ADDRESS says if None.
        only, limit, data, models, tokenizers: as in `prepare.Request`; paths as the cluster
            sees them.
        retry_failed, steal_lock: as for `run`.
        wait_s: how long to wait for the driver's first words.
    """

    grid: Path
    out: str | None
    address: str | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None
    data: Path | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    retry_failed: bool = False
    steal_lock: bool = False
    wait_s: float = 90.0


def submit(asked: Submission) -> int:
    """Start the driver on the cluster's head and say how to follow it.

    Returns:
        0 once the driver is at work; its own exit code if it ended at once.

    Raises:
        CommandError: a path means nothing on the cluster.
        GridError: the grid is not YAML, or names files that cannot travel.
        PrerequisiteError: there is no cluster at the address, or it refuses.
    """
    _check_paths(asked)
    client = connect(asked.address)
    job = start(client, command(asked), asked.grid)
    address = client.get_address()
    console.note(f"submitted to {address} as {job}; waiting for the driver's first words …")
    code = _first_words(client, job, asked)
    if code is None:
        console.result(f"run folder  {asked.out}")
        console.result(f"job         {job}")
        console.result(f"follow      ssmbench status {asked.out} --follow")
        console.result(f"            ray job logs {job} --address {address} --follow")
        console.result(f"stop        ssmbench cancel {asked.out}")
        return DONE
    return code


def command(asked: Submission) -> str:
    """Write the command line that the driver runs, in the folder that was sent."""
    request = Request(
        grid=Path(asked.grid.name),
        only=asked.only,
        limit=asked.limit,
        data=asked.data,
        models=asked.models,
        tokenizers=asked.tokenizers,
    )
    words = ["python", "-m", *shlex.split(request.command(retry_failed=asked.retry_failed))]
    words += ["--out", str(asked.out), "--plain"]
    if asked.steal_lock:
        words.append("--steal-lock")
    return on_this_cluster(words)


def on_this_cluster(words: Sequence[str]) -> str:
    """Write a command for a job's shell, with the address of the cluster that the job runs on.

    Not "auto": where a machine has processes of several clusters, that takes any of them.
    """
    return f'{shlex.join(words)} --address "$RAY_ADDRESS"'


def _check_paths(asked: Submission) -> None:
    """Refuse paths that only this machine could understand."""
    if asked.out is None:
        raise CommandError(f"--out: found none; {_SHARED}, or an address such as s3://BUCKET/NAME.")
    shared("--out", asked.out)
    if asked.data is not None:
        shared("--data", str(asked.data))
    for flag, given in (("--model", asked.models), ("--tokenizer", asked.tokenizers)):
        for name, text in given.items():
            if not Path(text).is_absolute() and parcel.exists(Path(text)):
                raise CommandError(f"{flag} {name}={text}: {_SHARED}, or a hub id.")


_SHARED = "expected an absolute path that every machine of the cluster sees"


def shared(flag: str, text: str) -> str:
    """Refuse a path that only this machine could understand, else give it back.

    Raises:
        CommandError: it is relative.
    """
    if "://" not in text and not Path(text).is_absolute():
        raise CommandError(f"{flag} {text}: {_SHARED}, or an address such as s3://BUCKET/NAME.")
    return text


def connect(address: str | None) -> Any:
    """Give Ray's client of a cluster's job server.

    Raises:
        CommandError: the address is not one of a dashboard.
        PrerequisiteError: nobody answers there, or refuses.
    """
    address = address or os.environ.get(_ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    parsed = urlsplit(address)
    if parsed.scheme not in {"http", "https"} or not parsed.hostname:
        raise CommandError(
            f"--address {address}: expected the dashboard of a cluster's head, http://HEAD:8265."
        )
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        # Ray's client has no limit of its own: it would try for minutes.
        socket.create_connection((parsed.hostname, port), timeout=_REACH_S).close()
    except OSError as error:
        raise PrerequisiteError(
            f"--address {address}: nobody answers ({error}). Expected the dashboard of a cluster's"
            " head; `ray dashboard cluster.yaml` brings it to http://127.0.0.1:8265."
        ) from error
    # Ray lets its variables win over what it is given.
    os.environ[_ADDRESS_VARIABLE] = address
    os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from ray.job_submission import JobSubmissionClient

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return JobSubmissionClient(address)
    except Exception as error:
        raise PrerequisiteError(_refused(address, error)) from error


def start(client: Any, entrypoint: str, grid: Path | None) -> str:
    """Start a job with a grid and its parts in its working folder; give the job's id.

    Raises:
        GridError: the grid or its parts cannot travel.
        PrerequisiteError: the cluster refuses.
    """
    found = [] if grid is None else parcel.parts(grid)
    with tempfile.TemporaryDirectory(prefix="ssmbench-submit-") as folder:
        if grid is not None:
            parcel.pack(grid, found, Path(folder))
        try:
            job: str = client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": folder})
        except Exception as error:
            raise PrerequisiteError(_refused(client.get_address(), error)) from error
    for path in found:
        console.note(f"sent along: {path}")
    return job


def result(client: Any, job: str) -> int:
    """Wait for a job's end, print what its command printed, and give its exit code."""
    info = client.get_job_info(job)
    while not info.status.is_terminal():
        time.sleep(_POLL_S)
        info = client.get_job_info(job)
    _, sign, text = client.get_job_logs(job).partition(f"{info.entrypoint}\n")
    if sign:
        console.write(text)
    else:
        console.error(str(info.message))
    if info.driver_exit_code is None:
        return CANNOT_RUN
    return int(info.driver_exit_code)


def _refused(address: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    hint = "Is it the dashboard of a Ray cluster with the job server (`pip install ray[default]`)?"
    if type(error).__name__ == "AuthenticationError":
        hint = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token) as there."
    return f"--address {address}: the job was not taken ({reason}). {hint}"


def _first_words(client: Any, job: str, asked: Submission) -> int | None:
    """Wait until the driver says what there is to do; its exit code if it ends before.

    So a grid with mistakes, a locked run folder or a missing package shows at once.
    """
    deadline = time.monotonic() + asked.wait_s
    while True:
        info = client.get_job_info(job)
        text = client.get_job_logs(job)
        if info.status.is_terminal():
            return _ended(info, text)
        greeting = [line for line in text.splitlines() if line.endswith(str(asked.out))]
        if greeting:
            console.note(greeting[0])
            return None
        if time.monotonic() > deadline:
            console.warn(f"the driver has said nothing within {asked.wait_s:g} s; it may yet")
            return None
        time.sleep(_POLL_S)


def _ended(info: Any, text: str) -> int:
    for line in text.splitlines():
        console.note(f"  {line}")
    if info.status.value == "SUCCEEDED":
        console.note("the driver has ended already: there was little to do")
        return DONE
    if not text.strip():
        console.error(str(info.message))
    code = info.driver_exit_code
    return SOME_FAILED if code in (None, 0) else int(code)
