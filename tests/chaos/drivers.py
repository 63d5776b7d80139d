"""The drivers of one run: `ssmbench run` as a process, started again whenever it ended early."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssmbench.errors import CANNOT_RUN, DONE, INTERRUPTED, SOME_FAILED, USAGE

if TYPE_CHECKING:
    from pathlib import Path

    from chaos.lab import Lab

_LEAVES_S, _MOST_EARLY = 60.0, 5


@dataclass
class Driver:
    """One process. `harmed` names the faults that may end it early, with any of these codes."""

    process: subprocess.Popen[bytes]
    log: Path
    harmed: dict[str, set[int]] = field(default_factory=dict)
    doomed_s: float | None = None

    @property
    def code(self) -> int | None:
        """The exit code, or None while it lives."""
        return self.process.poll()

    @property
    def printed(self) -> str:
        """Everything that it has printed."""
        return self.log.read_text(errors="replace")


@dataclass
class Drivers:
    """All drivers of one run folder; the last one started is the one that counts.

    `strange` collects what no fault explains.
    """

    lab: Lab
    grid: Path
    folder: Path
    all: list[Driver] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    n_early: int = 0

    @property
    def last(self) -> Driver:
        """The newest driver."""
        return self.all[-1]

    def start(self, *options: str, joins: bool = True) -> Driver:
        """Start a driver; one that does not join is only looked at by its caller."""
        log = self.lab.base / "logs" / f"{self.folder.name}-driver-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "ssmbench", "run", str(self.grid), "--plain"]
        command += ["--out", str(self.folder), "--address", self.lab.address, *options]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**self.lab.environment, "SSMBENCH_CHAOS_HOST": "driver"},
                start_new_session=True,
            )
        driver = Driver(process, log)
        if joins:
            self.all.append(driver)
        return driver

    def look(self) -> bool:
        """See to drivers that ended; say whether the run is done.

        A driver that a fault ended is succeeded by another. So is one that gave up with a
        sentence, with what failed tried again, as a person would.
        """
        for driver in self.all[:-1]:
            if driver.code is None and driver.doomed_s and time.monotonic() > driver.doomed_s:
                self.strange.append(f"a driver that had lost its lock lived on:\n{driver.printed}")
                driver.process.kill()
                driver.process.wait()
        code = self.last.code
        if code is None:
            return False
        printed = self.last.printed
        if "Traceback (most recent call last)" in printed:
            self.strange.append(f"a driver printed a traceback (exit {code}):\n{printed[-3000:]}")
        if code == DONE:
            return True
        again = ["--retry-failed"] if code == SOME_FAILED else []
        if code not in set[int]().union(*self.last.harmed.values()):
            if code not in {SOME_FAILED, CANNOT_RUN}:
                text = f"a driver ended with {code} for no reason"
                self.strange.append(f"{text}:\n{printed[-3000:]}")
            self.n_early += 1
            if self.n_early > _MOST_EARLY:
                text = f"a run gave up {self.n_early} times (exit {code})"
                self.strange.append(f"{text}:\n{printed[-3000:]}")
                return True
        self.start(*again)
        return False

    def settle(self) -> None:
        """Wait for drivers that lost their lock to leave."""
        for driver in self.all:
            try:
                driver.process.wait(timeout=_LEAVES_S)
            except subprocess.TimeoutExpired:
                self.strange.append(f"a driver did not leave:\n{driver.printed[-3000:]}")
                driver.process.kill()
                driver.process.wait()

    def end(self) -> None:
        """End all drivers, whatever they are doing."""
        for driver in self.all:
            if driver.code is None:
                driver.process.kill()
            driver.process.wait()


KILLED, STOPPED, REFUSED, NO_DISK = (
    {-signal.SIGKILL},
    {INTERRUPTED},
    {USAGE},
    {USAGE, SOME_FAILED, CANNOT_RUN},
)
