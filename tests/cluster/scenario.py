"""A whole life of a cluster, for real, on one machine: from `ray up` to `ray down`.

    sudo .venv/bin/python tests/cluster/scenario.py [FOLDER]

ray up → ssmbench doctor → ssmbench submit → a node loses its power → a link is cut → it heals, the
power is back → the run ends with 0 → the results are those of an undisturbed run, each once →
ray down. It takes several minutes, and needs root on Linux, iproute2, openssh-server, rsync and
ray[default]; without them it says what it skipped and exits with 77. FOLDER, a new one by default,
keeps the run and the logs.
"""

from __future__ import annotations

import collections
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
from lab import Lab, missing

if TYPE_CHECKING:
    from collections.abc import Callable

SKIPPED = 77
HEAD, FIRST, SECOND = 1, 2, 3
DASHBOARD = "http://10.77.0.11:8265"
TARGET_S = 45.0
_TITLE = "ray::zoo-"
_START_S = time.monotonic()

# As many cells as the head alone has slots, so that there is room for those that lose their
# machines.
N_CELLS = 6
CELL_S = 90.0
GRID = """
models: [zoo-mamba-s]
methods:
  - dense
  - {method: random, ratio: [0.25, 0.5]}
  - {method: magnitude, ratio: 0.5}
  - {method: state, ratio: 0.5}
  - {method: wanda, ratio: 0.5}
suites: [{suite: tinyworld, n: N}, {suite: perplexity, data: tinyworld, length: 64}]
calibration: {data: tinyworld, samples: 4, length: 32}
resources: {num_cpus: 1}
"""


def main(arguments: list[str]) -> int:
    """Run the scenario and give the exit code: 0, 1 where something was wrong, 77 if skipped."""
    lacking = missing()
    if lacking:
        say(f"skipped: this machine lacks {'; '.join(lacking)}")
        return SKIPPED
    folder = Path(arguments[0]) if arguments else Path(tempfile.mkdtemp(prefix="ssmlab-"))
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state"
    state.mkdir()
    (state / "auth_token").write_text(secrets.token_hex(32))
    text = Path(__file__).with_name("cluster.yaml").read_text()
    (folder / "cluster.yaml").write_text(text.replace("STATE", str(state)))
    try:
        (folder / "lab.yaml").write_text(GRID.replace("n: N", f"n: {documents(folder)}"))
        with Lab(state, 3, keep=(folder,)) as lab:
            story = Story(lab, folder)
            try:
                story.tell()
            except BaseException:
                say(story.last_words())
                raise
    except (Wrong, TimeoutError, RuntimeError) as problem:
        say(f"WRONG: {problem}")
        say(f"the run and the logs are in {folder}")
        return 1
    if not arguments:
        shutil.rmtree(folder)
    say("all went as it should")
    return 0


def documents(folder: Path) -> int:
    """Choose how many documents let a cell last for CELL_S while as many run as there are.

    The story's events need their time, on a fast machine as on one that is busy with other things.
    """
    grid = GRID.replace("n: N", "n: 200").partition("methods:")[0] + "methods: [dense]\n"
    (folder / "short.yaml").write_text(grid + "suites: [{suite: tinyworld, n: 200}]\n")
    run(folder, "run", "short.yaml", "--inline", "--out", "short")
    [commit] = [r for r in records(folder / "short") if r["event"] == "commit"]
    seconds = float(commit["seconds"])
    at_once = max(1.0, N_CELLS / len(os.sched_getaffinity(0)))
    n = round(200 * CELL_S / (seconds * at_once))
    say(f"200 documents take {seconds:.1f} s here: {n} are scored on each cell")
    return max(200, n)


class Wrong(Exception):
    """Something did not go as it should."""


class Story:
    """The steps, in order, and what each found."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.out = folder / "run"
        self.job = ""
        token = (folder / "state" / "auth_token").read_text()
        self.env = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def tell(self) -> None:
        """Do it all."""
        self.up()
        self.doctor()
        self.submit()
        self.lose_power()
        self.cut_link()
        self.power_back()
        self.end()
        self.compare()
        self.down()

    def up(self) -> None:
        code, text = self.launcher("ray", "up", "-y", "cluster.yaml", timeout_s=300)
        self.keep("up.log", text)
        expect(code == 0, f"ray up ended with {code}: {text[-1500:]}")
        say("ray up: the head is up")

    def doctor(self) -> None:
        """Ask until the workers, which come after the head, are there and all is well."""
        deadline = time.monotonic() + 600
        while True:
            code, text = self.launcher(
                "ssmbench", "doctor", "lab.yaml", "--address", DASHBOARD, "--out", str(self.out)
            )
            self.keep("doctor.log", text)
            if code == 0:
                break
            expect(time.monotonic() < deadline, f"doctor still says {code}:\n{text}")
            time.sleep(5)
        for line in text.splitlines():
            say(f"  {line}")
        say("doctor: all is well on three machines")

    def submit(self) -> None:
        code, text = self.launcher(
            "ssmbench", "submit", "lab.yaml", "--address", DASHBOARD, "--out", str(self.out)
        )
        expect(code == 0, f"submit ended with {code}: {text}")
        self.job = next(w for w in text.split() if w.startswith("raysubmit_")).rstrip(";")
        say(f"submitted as {self.job}")

    def lose_power(self) -> None:
        lost = self.wait_for_work(FIRST)
        self.lab.kill(FIRST)
        say(f"node{FIRST} has lost its power while it ran '{lost}'")
        seconds = self.wait_elsewhere(lost, FIRST)
        say(f"FIGURE the cell of the node that lost its power runs elsewhere after {seconds:.1f} s")

    def power_back(self) -> None:
        """The machine comes back with nothing running; the launcher's monitor starts Ray on it."""
        self.lab.start(FIRST)
        say(f"node{FIRST} has power again")
        until(lambda: self.lab.processes(FIRST, "raylet/raylet"), 600, f"Ray on node{FIRST}")
        say(f"node{FIRST} is back: the launcher's monitor has started Ray there")

    def cut_link(self) -> None:
        lost = self.wait_for_work(SECOND)
        self.lab.cut(SECOND)
        say(f"node{SECOND}'s link is cut while it runs '{lost}'")
        seconds = self.wait_elsewhere(lost, SECOND)
        say(f"FIGURE the cell of the silently lost node runs elsewhere after {seconds:.1f} s")
        still = self.working(SECOND)
        say(f"node{SECOND} meanwhile, cut off: {still or 'nothing'}")
        time.sleep(20)
        self.lab.heal(SECOND)
        say(f"node{SECOND}'s link has healed")
        expect(
            seconds <= TARGET_S, f"that took {seconds:.1f} s; at most {TARGET_S:g} s were allowed"
        )

    def end(self) -> None:
        code, text = self.launcher("ssmbench", "status", str(self.out), "--follow", timeout_s=1500)
        self.keep("status.log", text)
        expect(code == 0, f"the run ended with {code}:\n{text}")
        until(lambda: self.job_status() != "", 60, "the job's end")
        expect(self.job_status() == "succeeded", f"the job {self.job_status()}")
        for line in self.last_words().splitlines():
            if line.startswith(("!", "✗", "✓")) or " done" in line:
                say(f"  {line}")
        say("the run has ended with exit code 0")

    def compare(self) -> None:
        """Run the same grid undisturbed and compare every number."""
        commits = collections.Counter(
            (r["cell"], r["suite"]) for r in records(self.out) if r["event"] == "commit"
        )
        cells = {cell for cell, _ in commits}
        expect(len(cells) == N_CELLS, f"{len(cells)} of {N_CELLS} cells are committed")
        expect(len(commits) == 2 * N_CELLS, f"{len(commits)} of {2 * N_CELLS} suites are committed")
        twice = [key for key, n in commits.items() if n > 1]
        expect(not twice, f"committed more than once: {twice}")
        run(self.folder, "run", "lab.yaml", "--inline", "--out", "calm")
        for table in ("metrics", "samples"):
            ours, theirs = (rows(self.folder, out, table) for out in ("run", "calm"))
            expect(ours == theirs, f"the table {table} is not that of an undisturbed run")
            say(f"{table}: {len(ours)} rows, as in an undisturbed run")
        whole = [p for p in (self.out / "attempts").rglob("*.json") if p.name.count(".") == 3]
        found = f"cells {len(cells)}, suites {len(commits)}, lost 0, duplicated 0"
        say(f"{found}; {len(whole)} whole suites on the disk")

    def down(self) -> None:
        code, text = self.launcher("ray", "down", "-y", "cluster.yaml")
        self.keep("down.log", text)
        expect(code == 0, f"ray down ended with {code}: {text[-1500:]}")
        for i in (HEAD, FIRST, SECOND):
            # `ray down` leaves the workers of a local cluster running (docs/cluster.md).
            self.lab.run(i, "ray", "stop", timeout_s=60)
            left = self.lab.processes(i, "raylet")
            expect(not left, f"still on node{i}: {left}")
        say("ray down: nothing runs any more")

    def job_status(self) -> str:
        """Give how the job ended, as Ray's command tells it; nothing while it runs."""
        _, text = self.launcher("ray", "job", "status", self.job, "--address", DASHBOARD)
        ends = ("succeeded", "failed", "was stopped")
        return next((end for end in ends if f"Job '{self.job}' {end}" in text), "")

    def last_words(self) -> str:
        """Give the end of what the driver printed."""
        if not self.job:
            return "no job was submitted"
        _, text = self.launcher("ray", "job", "logs", self.job, "--address", DASHBOARD)
        self.keep("driver.log", text)
        return f"the driver's last words:\n{text[-3000:]}"

    def launcher(self, *command: str, timeout_s: float = 240) -> tuple[int, str]:
        """Run a command on the launcher, in the story's folder."""
        inside = f'cd {self.folder} && exec "$@"'
        return self.lab.run(
            0, "bash", "-c", inside, "bash", *command, timeout_s=timeout_s, **self.env
        )

    def working(self, i: int) -> list[str]:
        """Give the cells that a host works on, by its processes' titles."""
        return [p.removeprefix("ray::").split("  ")[0] for p in self.lab.processes(i, _TITLE)]

    def wait_for_work(self, i: int) -> str:
        """Wait until a host has worked on one cell for some seconds; give that cell."""
        before: list[str] = []

        def same() -> bool:
            nonlocal before
            here = self.working(i)
            found = bool(here) and here == before
            before = here
            return found

        until(same, 300, f"node{i} to work on a cell", pause_s=2)
        return before[0]

    def wait_elsewhere(self, cell: str, i: int) -> float:
        """Wait until a cell is worked on by another host than `i`; give the seconds."""
        begun = time.monotonic()
        others = [k for k in self.lab.hosts if k not in (0, i)]
        until(
            lambda: any(cell in self.working(k) for k in others), 600, f"'{cell}' to run elsewhere"
        )
        return time.monotonic() - begun

    def keep(self, name: str, text: str) -> None:
        """Keep what a command printed."""
        (self.folder / name).write_text(text)


def records(run_folder: Path) -> list[dict[str, Any]]:
    """Read a run's ledger."""
    segments = sorted((run_folder / "ledger").glob("*.jsonl"))
    return [json.loads(line) for path in segments for line in path.read_text().splitlines()]


def rows(folder: Path, out: str, table: str) -> list[str]:
    """Give a run's table as sorted lines."""
    text = run(folder, "sql", out, f"select * from {table}", "--format", "json")
    return sorted(json.dumps(row, sort_keys=True) for row in json.loads(text))


def run(folder: Path, *words: str) -> str:
    """Run ssmbench on this machine itself, undisturbed; give what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "ssmbench", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    expect(done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def expect(true: Any, text: str) -> None:
    """Go on only if something is true."""
    if not true:
        raise Wrong(text)


def until(there: Callable[[], bool], seconds: float, what: str, *, pause_s: float = 0.5) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(pause_s)


def say(text: str) -> None:
    """Print a line with the time since the start."""
    sys.stdout.write(f"{time.monotonic() - _START_S:6.1f}  {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
