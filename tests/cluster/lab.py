"""Several hosts on one machine: each in network, process, mount, name and IPC namespaces.

Nothing gets a name on the machine itself: the namespaces, the links between them and the RAM
disks on them last as long as the processes that hold them, and those end with this one, however
it ends. No packet leaves the lab: its bridge is in a namespace without another interface.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

PROJECT = Path(__file__).parents[2]
NETWORK = "10.77.0"
LAUNCHER = "launcher"
_SSHD = Path("/usr/sbin/sshd")
# What is started so ends with this process, however that ends.
_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")

_SSHD_CONF = """Port 22
HostKey {state}/hostkey
PidFile none
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
AuthorizedKeysFile {state}/id.pub
StrictModes no
Subsystem sftp internal-sftp
MaxSessions 50
MaxStartups 50
"""


def missing() -> list[str]:
    """Say what this machine lacks for a lab; nothing where all is there."""
    found = []
    if sys.platform != "linux" or os.geteuid() != 0:
        return ["root on Linux"]
    found += [
        f"{command} (package {package})"
        for command, package in (
            ("ip", "iproute2"),
            ("unshare", "util-linux"),
            ("nsenter", "util-linux"),
            ("setpriv", "util-linux"),
            ("rsync", "rsync"),
            ("ssh", "openssh-client"),
            ("ssh-keygen", "openssh-client"),
        )
        if shutil.which(command) is None
    ]
    if not _SSHD.exists():
        found.append("sshd (package openssh-server)")
    if not found:
        tried = subprocess.run(
            [
                *_WITH_PARENT,
                "unshare",
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "ip",
                "link",
                "add",
                "type",
                "veth",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.returncode:
            found.append(f"the right to make namespaces and links ({tried.stderr.strip()})")
    try:
        import aiohttp_cors  # noqa: F401
    except ImportError:
        found.append("Ray's job server (pip install 'ray[default]')")
    return found


class Host:
    """One host: `outer` holds its namespaces, `pid` is its first process, seen from here."""

    def __init__(self, name: str, address: str, outer: subprocess.Popen[bytes], pid: int) -> None:
        self.name, self.address, self.outer, self.pid = name, address, outer, pid


class Lab:
    """A launcher and N hosts, 10.77.0.11 and on; use it as a context manager."""

    def __init__(self, state: Path, n: int, *, keep: tuple[Path, ...] = ()) -> None:
        """Prepare a lab.

        Args:
            state: a folder for keys and logs.
            n: hosts beside the launcher.
            keep: folders that every host sees, as over NFS.
        """
        self.state, self.n = state, n
        self.hosts: dict[int, Host] = {}
        covered = (Path.home(), Path("/tmp"))  # Hosts have their own.
        wanted = [state, PROJECT, Path(sys.prefix), Path(sys.base_prefix), *keep]
        wanted += [Path(p) for p in sys.path if p and Path(p).is_dir()]
        shown = {p.resolve() for p in wanted if any(p.resolve().is_relative_to(c) for c in covered)}
        # A folder within another comes with it.
        self._keep = sorted(
            p for p in shown if not any(q != p and p.is_relative_to(q) for q in shown)
        )

    def __enter__(self) -> Lab:
        self.state.mkdir(parents=True, exist_ok=True)
        for name in ("id", "hostkey"):
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.state / name))
        (self.state / "sshd.conf").write_text(_SSHD_CONF.format(state=self.state))
        # So that the hosts end in good order at a SIGTERM too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            launcher = self.start(0)
            self._net(launcher, "link", "add", "br0", "type", "bridge")
            self._net(launcher, "addr", "add", f"{NETWORK}.1/24", "dev", "br0")
            self._net(launcher, "link", "set", "br0", "up")
            for i in range(1, self.n + 1):
                self.start(i)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, i: int) -> Host:
        """Start host `i` (0 is the launcher), or start it again after `kill`."""
        name = LAUNCHER if i == 0 else f"node{i}"
        ready = self.state / f"{name}.ready"
        ready.unlink(missing_ok=True)
        script = Path(__file__).with_name("host.sh")
        commands = str(Path(sys.executable).parent)
        outer = subprocess.Popen(
            [*_WITH_PARENT, "unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             "--mount", "--uts", "--ipc", "bash", str(script), name, str(self.state), commands,
             *map(str, self._keep)],
            stdin=subprocess.DEVNULL,
            stdout=(self.state / f"{name}.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        _wait_for(lambda: ready.exists() or outer.poll() is not None, 30, f"{name} to start")
        if outer.poll() is not None:
            raise RuntimeError(f"{name} did not start: {(self.state / f'{name}.log').read_text()}")
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        host = Host(name, f"{NETWORK}.{1 if i == 0 else 10 + i}", outer, int(children[0]))
        self.hosts[i] = host
        if i:
            launcher = self.hosts[0]
            self._net(launcher, "link", "add", f"v{i}", "type", "veth",
                      "peer", "name", "eth0", "netns", str(host.pid))  # fmt: skip
            self._net(launcher, "link", "set", f"v{i}", "master", "br0", "up")
            self._net(host, "addr", "add", f"{host.address}/24", "dev", "eth0")
            self._net(host, "link", "set", "eth0", "up")
        return host

    def kill(self, i: int) -> None:
        """End a host as a power cut would: every process at once, no farewell on the wire."""
        host = self.hosts.pop(i)
        # The cable first: dying processes close their connections, a machine without power not.
        self._net(self.hosts[0], "link", "del", f"v{i}")
        os.kill(host.pid, signal.SIGKILL)
        host.outer.wait(30)

    def cut(self, i: int) -> None:
        """Let nothing through to or from host `i` any more."""
        self._net(self.hosts[0], "link", "set", f"v{i}", "down")

    def heal(self, i: int) -> None:
        """Let everything through again."""
        self._net(self.hosts[0], "link", "set", f"v{i}", "up")

    def popen(self, i: int, *command: str, log: IO[Any] | int | None = None, **env: str) -> Any:
        """Start a command on host `i`."""
        words = [f"{name}={value}" for name, value in env.items()]
        # A shell that has read the host's .bashrc, as after ssh.
        inside = ["bash", "-c", '. ~/.bashrc; exec "$@"', "bash", *command]
        return subprocess.Popen(
            [*_WITH_PARENT, "nsenter", "--target", str(self.hosts[i].pid), "--net", "--mount",
             "--uts", "--ipc", "--pid", "env", *words, *inside],
            stdin=subprocess.DEVNULL,
            stdout=log or subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
        )  # fmt: skip

    def run(self, i: int, *command: str, timeout_s: float = 300, **env: str) -> tuple[int, str]:
        """Run a command on host `i`; give its exit code and what it printed."""
        process = self.popen(i, *command, **env)
        try:
            text, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
            return 124, f"{text}\n(ended after {timeout_s:g} s)"
        return process.returncode, text

    def processes(self, i: int, word: str) -> list[str]:
        """List the command lines of a host's processes that have `word` in them."""
        mine = Path(f"/proc/{self.hosts[i].pid}/ns/pid").readlink()
        found = []
        for process in Path("/proc").iterdir():
            if not process.name.isdecimal():
                continue
            try:
                if (process / "ns" / "pid").readlink() == mine:
                    line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    found += [line] if word in line else []
            except (OSError, UnicodeDecodeError):  # It has ended meanwhile.
                continue
        return found

    def close(self) -> None:
        """End every host; with their processes their namespaces, links and RAM disks go."""
        for host in self.hosts.values():
            host.outer.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(host.pid, signal.SIGKILL)
        for host in self.hosts.values():
            host.outer.wait(30)
        self.hosts.clear()

    def _net(self, host: Host, *words: str) -> None:
        _do("nsenter", "--target", str(host.pid), "--net", "ip", *words)


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _wait_for(there: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)
