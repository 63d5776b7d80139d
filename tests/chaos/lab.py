"""Three hosts on one machine, each with a Ray node of one CPU, and what can happen to them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEAD, WORKERS = "head", ("west", "east")
PORT = 6379
_START_S = 300.0
_DISK = "64m"
_STORE_BYTES = 80 * 2**20
# Each host starts anew in empty folders: its own processes, network and temporary files.
_UNSHARE = ("unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--mount", "--uts")


def namespaces_allowed() -> str | None:
    """Give why the hosts cannot have namespaces, or None if they can."""
    if os.geteuid() != 0:
        return "needs root"
    for tool in ("unshare", "nsenter", "ip", "bash", "mount"):
        if shutil.which(tool) is None:
            return f"needs the command {tool}"
    trial = "ip link add name chaos0 type bridge && mount -t tmpfs tmpfs /mnt"
    command = [*_UNSHARE, "--net", "bash", "-c", trial]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"namespaces are not allowed here ({done.stderr.strip().splitlines()[-1]})"
    return None


def enter_namespaces(command: Sequence[str]) -> None:
    """Become a process in namespaces of its own, with which everything below it dies."""
    # The shell is process 1 there: it collects the dead, which Python would leave as zombies.
    script = 'mount -t tmpfs tmpfs "$1" && shift && ip link set lo up && "$@"; exit $?'
    base = tempfile.mkdtemp(prefix="sc", dir="/tmp")
    whole = [*_UNSHARE, "--net", "bash", "-c", script, "chaos", base, *command, "--base", base]
    sys.stdout.flush()
    os.execvp(whole[0], whole)


@dataclass
class Host:
    """One host: its Ray node's first process, how often it was started, whether it is harmed."""

    name: str
    ip: str
    process: subprocess.Popen[bytes] | None = None
    away: bool = False
    starts: int = 0

    @property
    def up(self) -> bool:
        """Whether its first process lives."""
        return self.process is not None and self.process.poll() is None


@dataclass
class Lab:
    """The hosts; `base` holds everything that they write.

    `namespaces` says whether each host has its own; `token` marks every process of the lab.
    """

    base: Path
    namespaces: bool
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    hosts: dict[str, Host] = field(default_factory=dict)

    def __post_init__(self) -> None:
        net = "10.79.0" if self.namespaces else "127.0.79"
        names = (HEAD, *WORKERS)
        self.hosts = {name: Host(name, f"{net}.{10 + i}") for i, name in enumerate(names)}
        for folder in ("ray", "runs", "logs"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        if self.namespaces:
            _sh("mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(self.base / "runs"))
            _sh("ip", "link", "add", "name", "br0", "type", "bridge")
            _sh("ip", "addr", "add", f"{self.hosts[HEAD].ip}/24", "dev", "br0")
            _sh("ip", "link", "set", "br0", "up")

    @property
    def address(self) -> str:
        """Where drivers find the cluster; they run on the head."""
        return f"{self.hosts[HEAD].ip}:{PORT}"

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the lab has in its environment."""
        return {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "SSMBENCH_CHAOS": self.token,
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(self.base / "logs"),
        }

    def start(self) -> None:
        """Start all hosts and wait until they are one cluster."""
        for name in self.hosts:
            self.boot(name)
            if name == HEAD:
                self.wait_for(name)
        for name in WORKERS:
            self.wait_for(name)

    def boot(self, name: str) -> None:
        """Start a host and its Ray node; give no time to it."""
        host = self.hosts[name]
        host.starts += 1
        command = self._ray(host)
        if self.namespaces and name != HEAD:
            script = (
                'hostname "$1"; mount -t tmpfs tmpfs "$2"; mount -t tmpfs tmpfs /dev/shm\n'
                "until ip -brief addr show dev eth0 2>/dev/null | grep -q /24; do sleep 0.05\n"
                "done\n"
                'shift 2; "$@"; exit $?'
            )
            temporary = str(self.base / "ray")
            command = [*_UNSHARE, "--net", "bash", "-c", script, "host", name, temporary, *command]
        with self.log_of(host).open("wb") as log:
            host.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.environment, "SSMBENCH_CHAOS_HOST": name},
                start_new_session=True,
            )
        host.away = False
        if self.namespaces and name != HEAD:
            self._plug_in(host)

    def wait_for(self, name: str) -> None:
        """Wait until a host's Ray node is up."""
        host, deadline = self.hosts[name], time.monotonic() + _START_S
        while b"Ray runtime started" not in self.log_of(host).read_bytes():
            if not host.up or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{self.log_of(host).read_text()}")
            time.sleep(0.1)

    def log_of(self, host: Host) -> Path:
        """Where the present start of a host writes."""
        return self.base / "logs" / f"{host.name}-{host.starts}.log"

    def kill(self, name: str) -> None:
        """End every process of a host at once, and collect them: a zombie raylet works on."""
        host = self.hosts[name]
        if host.process is None:
            return
        if self.namespaces and name != HEAD:
            host.process.kill()  # Its namespace dies with it.
        else:
            for process in self.processes(host=name):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        host.process.wait()

    def raylet(self, name: str) -> psutil.Process | None:
        """Find a host's raylet."""
        found = (p for p in self.processes(host=name) if _name(p) == "raylet")
        return next(found, None)

    def cut(self, name: str) -> None:
        """Let everything that a host sends and is sent vanish without a word."""
        _sh("ip", "link", "set", f"v-{name}", "down")

    def heal(self, name: str) -> None:
        """Mend the link of a host; Ray ends a node that finds itself declared dead."""
        if self.hosts[name].up:
            _sh("ip", "link", "set", f"v-{name}", "up")
        self.hosts[name].away = False

    def processes(self, host: str | None = None) -> Iterator[psutil.Process]:
        """Give the living processes of the lab, or of one host; this one is not among them."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                found = process.environ()
                ours = found.get("SSMBENCH_CHAOS") == self.token
                if ours and (host is None or found.get("SSMBENCH_CHAOS_HOST") == host):
                    yield process

    def attempts(self) -> list[tuple[psutil.Process, str, str]]:
        """Give the workers that run an attempt: process, cell's label, host.

        Ray names a busy worker after its task, and the task is named after its cell.
        """
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error, IndexError):
                title = process.cmdline()[0]
                if title.startswith("ray::zoo-"):
                    host = process.environ().get("SSMBENCH_CHAOS_HOST", HEAD)
                    found.append((process, title.removeprefix("ray::").strip(), host))
        return found

    def close(self) -> list[str]:
        """End everything; give the command lines of what would not go."""
        for name in (*WORKERS, HEAD):
            self.kill(name)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        deadline = time.monotonic() + 20
        while (left := [_line(p) for p in self.processes()]) and time.monotonic() < deadline:
            time.sleep(0.2)
        if self.namespaces:
            _sh("umount", "--lazy", "--recursive", str(self.base))
        shutil.rmtree(self.base, ignore_errors=True)
        return left

    def _ray(self, host: Host) -> list[str]:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", f"--node-ip-address={host.ip}", "--num-cpus=1", "--num-gpus=0"]
        command += [f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats", "--block"]
        if not self.namespaces:
            command += ["--min-worker-port=0", "--max-worker-port=0"]
        if host.name != HEAD:
            agent = [] if self.namespaces else ["--dashboard-agent-listen-port=0"]
            return [*command, f"--address={self.address}", *agent]
        temporary = f"--temp-dir={self.base / 'ray'}"
        return [*command, "--head", f"--port={PORT}", "--include-dashboard=false", temporary]

    def _plug_in(self, host: Host) -> None:
        """Give a host its end of a cable."""
        assert host.process is not None
        pid, ours = str(host.process.pid), Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{pid}/ns/net").readlink() == ours:
            time.sleep(0.01)
        end = f"v-{host.name}"
        with contextlib.suppress(subprocess.CalledProcessError):
            _sh("ip", "link", "del", end)  # Of the host's life before.
        _sh("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", pid)
        _sh("ip", "link", "set", end, "master", "br0", "up")
        for words in (
            ("addr", "add", f"{host.ip}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            _sh("nsenter", "-t", pid, "-n", "ip", *words)
        _sh("nsenter", "-t", pid, "-n", "ip", "link", "set", "lo", "up")


def _sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:120]
    except psutil.Error:
        return str(process.pid)
