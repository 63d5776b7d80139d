"""The deck of faults. Each is a function that does its harm and says what it did.

It gives None where there is nothing to harm at this moment; the card is then put back.
"""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

import psutil

from chaos.drivers import KILLED, NO_DISK, REFUSED, STOPPED
from chaos.lab import WORKERS
from chaos.watch import commits, uncommitted_marks, wait_until
from ssmbench.errors import StoreError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from chaos.world import World


class Fault(NamedTuple):
    """One kind: its name in tables, what it does, how many cards, and what it needs."""

    name: str
    does: Callable[[World], str | None]
    cards: int
    needs_namespaces: bool = False


def kill_worker(world: World) -> str | None:
    """SIGKILL a process in the middle of an attempt."""
    found = [a for a in world.lab.attempts() if not world.spared(a[1])]
    if not found:
        return None
    process, label, host = world.rng.choice(found)
    try:
        process.kill()
    except psutil.Error:
        return None
    world.hits[label] += 1
    return f"{label} on {host}"


def _node(world: World) -> str | None:
    """Choose a host that may go: at work, whole, and on no cell that was hit often."""
    work = [(label, host) for _, label, host in world.lab.attempts()]
    spared = {host for label, host in work if world.spared(label)}
    hosts = [world.lab.hosts[name] for name in WORKERS if name in {host for _, host in work}]
    found = [h.name for h in hosts if h.up and not h.away and h.name not in spared]
    return world.rng.choice(found) if found else None


def _lose(world: World, name: str) -> None:
    """Leave a host to its fault alone, and count the attempts that go with it."""
    world.lab.hosts[name].away = True
    world.hits.update(label for _, label, host in world.lab.attempts() if host == name)


def kill_node(world: World) -> str | None:
    """SIGKILL everything on a host; another takes its place a little later."""
    name = _node(world)
    if name is None:
        return None
    _lose(world, name)
    world.lab.kill(name)
    world.mend_in(world.rng.uniform(1, 10), f"{name} is back", lambda: world.lab.boot(name))
    return name


def terminate_node(world: World) -> str | None:
    """SIGTERM a raylet, as a cloud that takes a machine back; then the host is gone."""
    name = _node(world)
    raylet = world.lab.raylet(name) if name else None
    if name is None or raylet is None:
        return None
    _lose(world, name)
    with contextlib.suppress(psutil.Error):
        raylet.terminate()

    def replace() -> None:
        world.lab.kill(name)
        world.lab.boot(name)

    world.mend_in(world.rng.uniform(5, 10), f"{name} is back", replace)
    return name


def power_off_node(world: World) -> str | None:
    """Cut a host off and kill it, so that nobody is told; it comes back much later."""
    name = _node(world)
    if name is None:
        return None
    _lose(world, name)
    world.lab.cut(name)
    world.lab.kill(name)
    world.mend_in(world.rng.uniform(10, 40), f"{name} is back", lambda: world.lab.boot(name))
    return name


def cut_link_briefly(world: World) -> str | None:
    """Cut a host's link and mend it before anybody can be sure."""
    return _cut(world, world.rng.uniform(2, 8))


def cut_link(world: World) -> str | None:
    """Cut a host's link until it has been given up; it comes back with what it finished."""
    return _cut(world, world.rng.uniform(35, 50))


def _cut(world: World, seconds: float) -> str | None:
    name = _node(world)
    if name is None:
        return None
    if seconds > 10:
        _lose(world, name)
    world.lab.hosts[name].away = True
    world.lab.cut(name)
    world.mend_in(seconds, f"{name} is linked again", lambda: world.lab.heal(name))
    return f"{name} for {seconds:.0f} s"


def kill_driver(world: World) -> str | None:
    """SIGKILL the driver; the same command follows."""
    return _signal_driver(world, signal.SIGKILL, "kill driver", KILLED)


def terminate_driver(world: World) -> str | None:
    """SIGTERM the driver; it ends in order, and the same command follows."""
    return _signal_driver(world, signal.SIGTERM, "terminate driver", STOPPED)


def interrupt_driver(world: World) -> str | None:
    """Ctrl-C the driver; it ends in order, and the same command follows."""
    return _signal_driver(world, signal.SIGINT, "interrupt driver", STOPPED)


def _signal_driver(world: World, number: int, name: str, codes: set[int]) -> str | None:
    driver = world.driver
    if driver.code is not None or driver.harmed or " to run" not in driver.printed:
        return None
    driver.harmed[name] = codes
    driver.process.send_signal(number)
    return f"process {driver.process.pid}"


def second_driver(world: World) -> str | None:
    """Start another driver on the folder; it must be refused with a sentence."""
    if not _drives(world):
        return None
    other = world.drivers.start(joins=False)
    refused = wait_until(lambda: other.code is not None, 60)
    if other.code is None:
        other.process.kill()
    other.process.wait()
    if world.driver.code is not None:
        return None  # The run ended meanwhile: there was nobody to refuse it.
    if not refused or other.code != 2 or "is driven by process" not in other.printed:
        world.drivers.strange.append(
            f"a second driver was not refused ({other.code}):\n{other.printed}"
        )
    return "refused"


def steal_lock(world: World) -> str | None:
    """Start another driver with --steal-lock; the first must stop."""
    if not _drives(world):
        return None
    first = world.driver
    first.harmed["steal lock"] = REFUSED
    # It finds out at its next line in the ledger, or at its next sign of life.
    first.doomed_s = time.monotonic() + 90
    second = world.drivers.start("--steal-lock")
    return f"process {first.process.pid} to {second.process.pid}"


def fill_disk(world: World) -> str | None:
    """Leave no byte on the disk of the run folder for some seconds."""
    if not _at_work(world):
        return None
    ballast = world.folder.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    seconds = world.rng.uniform(2, 6)
    for driver in world.drivers.all:
        driver.harmed["fill disk"] = NO_DISK
    world.mend_in(seconds, "the disk has room again", lambda: ballast.unlink(missing_ok=True))
    return f"for {seconds:.0f} s"


def damage_file(world: World) -> str | None:
    """Stop the driver, damage a suite that it has not committed yet, and let it go on."""
    driver = world.driver
    if driver.code is not None or not _at_work(world):
        return None
    driver.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: uncommitted_marks(world.folder, world.damaged), 6)
        marks = uncommitted_marks(world.folder, world.damaged)
        if not marks:
            return None
        mark = world.rng.choice(marks)
        stem = mark.name.removesuffix(".json")
        tables = sorted(mark.parent.glob(f"{stem}.*.parquet"))
        path = world.rng.choice([mark, *tables])
        world.damaged.add(stem)
        how = _damage(path, world.rng)
    except (OSError, StoreError):
        return None
    finally:
        driver.process.send_signal(signal.SIGCONT)
    return f"{how} {path.name}"


def _damage(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    at = rng.randrange(len(data))
    how, changed = rng.choice(
        [
            ("truncated", data[:at]),
            ("emptied", b""),
            ("flipped a bit of", data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]),
        ]
    )
    path.write_bytes(changed)
    return how


def kill_board(world: World) -> str | None:
    """SIGKILL the actor that attempts tell their steps to."""
    for process in world.lab.processes():
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith("ray::Board"):
                process.kill()
                return f"process {process.pid}"
    return None


def _drives(world: World) -> bool:
    """Whether the newest driver holds the lock and nothing was done to it."""
    driver = world.driver
    unharmed = driver.code is None and not driver.harmed
    return unharmed and " to run" in driver.printed and _at_work(world)


def _at_work(world: World) -> bool:
    """Whether the run has begun to count something."""
    try:
        return bool(commits(world.folder))
    except ValueError:
        return False


DECK = (
    Fault("kill worker", kill_worker, 5),
    Fault("kill node", kill_node, 2),
    Fault("terminate node", terminate_node, 1),
    Fault("power off node", power_off_node, 1, needs_namespaces=True),
    Fault("cut link briefly", cut_link_briefly, 2, needs_namespaces=True),
    Fault("cut link", cut_link, 1, needs_namespaces=True),
    Fault("kill driver", kill_driver, 2),
    Fault("terminate driver", terminate_driver, 1),
    Fault("interrupt driver", interrupt_driver, 1),
    Fault("second driver", second_driver, 1),
    Fault("steal lock", steal_lock, 1),
    Fault("fill disk", fill_disk, 1, needs_namespaces=True),
    Fault("damage file", damage_file, 2),
    Fault("kill board", kill_board, 1),
)
