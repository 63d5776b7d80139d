"""Attempts made up for tests of the driver and the executors; Ray's workers import them too."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store_helpers import make_cell, make_suite

from ssmbench.execute.driver import Driver
from ssmbench.execute.executor import Ended, Node, Sign, Step
from ssmbench.execute.interrupts import Stop
from ssmbench.execute.job import Job, Report, SuiteFailure
from ssmbench.execute.outcomes import outcome_of
from ssmbench.execute.task import Settings, Summary, tasks_of
from ssmbench.plan.cells import Cell, Entry, Resources, Suite
from ssmbench.store import attempts
from ssmbench.store.folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ssmbench.execute.executor import Demand
    from ssmbench.execute.progress import State
    from ssmbench.store.ledger import Ledger

ROWS = {"metrics": [{"task": "t", "metric": "acc", "value": 0.5, "n": 4}]}


def make_entry(cell: Cell | None = None, *suites: str, **options: Any) -> Entry:
    return Entry(
        cell=cell or make_cell(),
        suites=tuple(make_suite(name) for name in suites or ("zero_shot",)),
        **{"resources": Resources(), "timeout_s": 60.0, "batch_tokens": 1024, **options},
    )


def write(job: Job, *suites: Suite) -> list[str]:
    """Write suites as an attempt does and give their ids."""
    for suite in suites:
        attempts.write_suite(
            RunFolder(Path(job.folder)),
            cell_id=job.cell.id,
            attempt_id=job.attempt_id,
            suite=suite,
            result_rows=ROWS,
            facts={},
        )
    return [suite.id for suite in suites]


def succeed(job: Job) -> dict[str, Any]:
    return _outcome(job, write(job, *job.suites), [])


def fail(error_class: str, *, after: int = 0) -> Callable[[Job], dict[str, Any]]:
    """Fail with a class, having written the first `after` suites."""

    def run(job: Job) -> dict[str, Any]:
        done = write(job, *job.suites[:after])
        rest = tuple(s.id for s in job.suites[after:])
        return _outcome(job, done, [SuiteFailure(rest, error_class, f"a {error_class} error")])

    return run


def die(error: BaseException, *, after: int = 0) -> Callable[[Job], dict[str, Any]]:
    """Vanish without an outcome, having written the first `after` suites."""

    def run(job: Job) -> dict[str, Any]:
        write(job, *job.suites[:after])
        raise error

    return run


def _outcome(job: Job, done: list[str], failures: list[SuiteFailure]) -> dict[str, Any]:
    outcome = outcome_of(job, done=done, failures=failures, started_s=time.time())
    attempts.write_outcome(RunFolder(Path(job.folder)), outcome)
    return outcome


class WorkerCrashedError(Exception):
    __module__ = "ray.exceptions"


class NodeDiedError(Exception):
    __module__ = "ray.exceptions"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeExecutor:
    """Runs scripted attempts in fake time: each takes `seconds` of it.

    Its nodes share `room`, and run what `on_node` says once the script is used up. `fates` says
    what has become of them, `silent` since when they give no sign of life, and `unreachable`
    which do not answer. What a silent node runs never ends; what runs on one that is no longer
    in `names` is lost.
    """

    clock: Clock
    script: list[Callable[[Job], dict[str, Any]]] = field(default_factory=list)
    seconds: float = 1.0
    seconds_on: dict[str, float] = field(default_factory=dict)
    room: int = 2
    on_poll: Callable[[], None] = lambda: None
    names: list[Node] = field(default_factory=lambda: [Node("n1", "host1", 8e9)])
    choose: Callable[[Job, list[Node]], Node] | None = None
    on_node: dict[str, Callable[[Job], dict[str, Any]]] = field(default_factory=dict)

    captures = True
    dies_with_driver = False

    def __post_init__(self) -> None:
        self.jobs: list[Job] = []
        self.demands: list[Demand] = []
        self.running: dict[str, tuple[Job, float, Node]] = {}
        self.queued: list[tuple[Job, Demand]] = []
        self.most_at_once = 0
        self.cancelled: list[tuple[str, bool]] = []
        self.cancels: list[tuple[str, bool]] = []
        self.together: list[set[str]] = []
        self.fates: dict[str, str] = {}
        self.silent: dict[str, float] = {}
        self.unreachable: set[str] = set()
        self.ran: list[tuple[str, str]] = []

    def check(self, resources: Resources) -> str | None:
        return None if self.names else "asked for 1 CPUs; found no machine"

    def nodes(self, resources: Resources) -> list[Node]:
        return list(self.names)

    def slots(self, demand: Demand) -> int:
        each = max(1, self.room // max(1, len(self.names)))
        return each * sum(node.id not in demand.avoid for node in self.names)

    def submit(self, job: Job, demand: Demand) -> None:
        self.jobs.append(job)
        self.demands.append(demand)
        self.queued.append((job, demand))
        self._start()

    def poll(self, timeout_s: float) -> list[Ended]:
        self.on_poll()
        taken = [e for k, force in self.cancelled if (e := self._cancelled(k, force=force))]
        self.cancelled = []
        self._start()
        self.clock.now += timeout_s
        names = {node.id for node in self.names}
        gone = [k for k, (_, _, node) in self.running.items() if node.id not in names]
        lost = [Ended(k, None, NodeDiedError(), self.running.pop(k)[2].id, "lost") for k in gone]
        due = [
            k
            for k, (_, end, node) in self.running.items()
            if end <= self.clock.now and node.id not in self.silent
        ]
        return [*taken, *lost, *(self._finish(*self.running.pop(k)) for k in due)]

    def cancel(self, attempt_id: str, *, force: bool) -> None:
        self.cancelled.append((attempt_id, force))
        self.cancels.append((attempt_id, force))

    def signs(self) -> Mapping[str, Sign]:
        return {
            k: Sign(
                Step("work", 1, 2), n.id, self.clock.now - self.silent.get(n.id, self.clock.now)
            )
            for k, (_, _, n) in self.running.items()
        }

    def is_reachable(self, node: str) -> bool:
        return node not in self.unreachable and any(n.id == node for n in self.names)

    def close(self) -> None:
        pass

    def _start(self) -> None:
        each = max(1, self.room // max(1, len(self.names)))
        for job, demand in list(self.queued):
            busy = [n.id for _, _, n in self.running.values()]
            free = [n for n in self.names if n.id not in demand.avoid and busy.count(n.id) < each]
            if not free:
                continue
            node = self.choose(job, free) if self.choose else free[0]
            self.queued.remove((job, demand))
            end = self.clock.now + self.seconds_on.get(node.id, self.seconds)
            self.running[job.attempt_id] = (job, end, node)
            self.ran.append((job.cell.id, node.id))
            self.together.append({j.kind for j, _, _ in self.running.values()})
            self.most_at_once = max(self.most_at_once, len(self.running))

    def _finish(self, job: Job, _end: float, node: Node) -> Ended:
        run = self.script.pop(0) if self.script else self.on_node.get(node.id, succeed)
        fate = self.fates.get(node.id, "alive")
        try:
            return Ended(job.attempt_id, run(job), None, node.id, fate)
        except BaseException as error:  # noqa: BLE001 - the script's way to lose a process
            return Ended(job.attempt_id, None, error, node.id, fate)

    def _cancelled(self, attempt_id: str, *, force: bool) -> Ended | None:
        waits = [(j, d) for j, d in self.queued if j.attempt_id == attempt_id]
        found = self.running.get(attempt_id)
        if found is not None and found[2].id in self.unreachable:
            return None
        if not waits and not (force and found is not None):
            return None
        self.running.pop(attempt_id, None)
        self.queued = [(j, d) for j, d in self.queued if j.attempt_id != attempt_id]
        return Ended(attempt_id, None, KeyboardInterrupt())


class Recorder:
    """A display that remembers."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.lines: list[tuple[str, str]] = []

    def show(self, state: State) -> None:
        self.states.append(state)

    def attempt_done(self, job: Job, suites: Any, seconds: float) -> None:
        self.lines.append(("done", job.cell.label))

    def attempt_failed(self, job: Job, suites: Any, error_class: str, message: str) -> None:
        self.lines.append(("failed", error_class))

    def attempt_retried(self, job: Job, error_class: str, message: str, wait_s: float) -> None:
        self.lines.append(("retried", f"{error_class} {wait_s:g}"))

    def note(self, text: str) -> None:
        self.lines.append(("note", text))

    def close(self) -> None:
        pass


def drive(
    ledger: Ledger,
    entries: list[Entry],
    executor: Any,
    *,
    stop: Stop | None = None,
    requests: Callable[[], int] = lambda: 0,
) -> tuple[Summary, Recorder]:
    """Run entries to their end, on a fake clock if the executor has one."""
    tasks = []
    for entry in entries:
        ledger.cell(entry.cell, entry.suites)
        tasks += tasks_of(entry, entry.suites, seconds=None, attempts_before=0)
    recorder = Recorder()
    driver = Driver(
        tasks,
        executor=executor,
        ledger=ledger,
        display=recorder,
        settings=Settings(data=None, offline=True),
        stop=stop or Stop(),
        requests=requests,
        clock=getattr(executor, "clock", time.monotonic),
    )
    return driver.run(), recorder


# What Ray's workers run in tests: "execute_helpers:NAME".


def pids(job: Job, report: Report) -> dict[str, Any]:
    """Succeed, with the process's pid and the variables that it was given."""
    _touch_log(job)
    report("work", 1, 2)
    names = ("OMP_NUM_THREADS", "DISABLE_MULTIPROC", "HF_HUB_OFFLINE")
    outcome = _outcome(job, write(job, *job.suites), [])
    return {**outcome, "pid": os.getpid(), "env": {n: os.environ.get(n) for n in names}}


def crash_once(job: Job, report: Report) -> dict[str, Any]:
    """Write the first suite and die at the first attempt; succeed at the second."""
    _touch_log(job)
    if job.number == 1:
        write(job, job.suites[0])
        os._exit(3)
    return pids(job, report)


def here() -> str:
    import ray

    node: str = ray.get_runtime_context().get_node_id()
    return node


def _is_bad_here(job: Job) -> bool:
    """Whether a test has written this node's id beside the run folder."""
    return here() in (Path(job.folder).parent / "bad").read_text()


def crash_on_bad_nodes(job: Job, report: Report) -> dict[str, Any]:
    """Die on some nodes; elsewhere wait until the test has seen what follows from that."""
    _touch_log(job)
    if _is_bad_here(job):
        os._exit(3)
    deadline = time.monotonic() + 120
    while not (Path(job.folder).parent / "seen").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return pids(job, report)


def fill_memory_of_bad_nodes(job: Job, report: Report) -> dict[str, Any]:
    _touch_log(job)
    if _is_bad_here(job):
        raise MemoryError
    return pids(job, report)


def fail_with_magnitude(job: Job, report: Report) -> dict[str, Any]:
    """Fail as a method with a bug would; take long enough for several machines to have one."""
    _touch_log(job)
    time.sleep(0.5)
    if job.cell.method == "magnitude":
        raise ValueError(f"seed {job.cell.seed} does not fit")
    return pids(job, report)


def stay_once(job: Job, report: Report) -> dict[str, Any]:
    """Write the first suite and go on for ever at the first attempt; succeed at the second."""
    _touch_log(job)
    if job.number == 1:
        write(job, job.suites[0])
        report("stay", 0, 0)
        time.sleep(300)
    return pids(job, report)


def raise_two_arguments(job: Job, report: Report) -> dict[str, Any]:
    class TwoError(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"{a} {b}")

    raise TwoError(1, 2)


def hang(job: Job, report: Report) -> dict[str, Any]:
    """Sleep in native code, deaf to anything but the end of the process."""
    _touch_log(job)
    report("hang", 0, 0)
    # Ray's interrupt is not a signal: what sleeps does not wake up.
    time.sleep(120)
    raise AssertionError("woke up")


def keep_place(job: Job, report: Report) -> dict[str, Any]:
    """Work until it is stopped, and then take a moment to note it, as a training does."""
    _touch_log(job)
    report("train", 0, 0)
    try:
        for _ in range(2400):
            time.sleep(0.05)
    except KeyboardInterrupt:
        time.sleep(0.5)
        (Path(job.folder) / "place").write_text("kept")
        raise
    raise AssertionError("nobody stopped it")


def slow(job: Job, report: Report) -> dict[str, Any]:
    """Take a second and report each tenth of it."""
    _touch_log(job)
    for i in range(10):
        report("slow", i, 10)
        time.sleep(0.1)
    return _outcome(job, write(job, *job.suites), [])


def noisy_attempt(job: Job, report: Report) -> dict[str, Any]:
    """Print from Python and from a child process inside an attempt's surroundings."""
    from ssmbench.execute import isolation

    with isolation.surroundings(job):
        sys.stdout.write("from python\n")
        os.system("echo from a child")
    return _outcome(job, write(job, *job.suites), [])


def _touch_log(job: Job) -> None:
    path = Path(job.folder) / job.log
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.touch(exist_ok=False)


def make_model(folder: Path) -> Path:
    """Write a tiny random Mamba with TinyWorld's tokenizer, in the published layout."""
    from ssmbench.models import checkpoint
    from ssmbench.models.decoder import Decoder
    from ssmbench.models.description import Description, Layer, Norm, SelectiveScan
    from ssmbench.models.initialise import initialise
    from ssmbench.zoo import tinyworld, tokenizer

    layer = Layer(SelectiveScan(d_inner=32, d_state=4, dt_rank=1), Norm())
    n_words = len(tinyworld.vocabulary())
    model = Decoder(Description("mamba", 16, -(-n_words // 8) * 8, (layer, layer), Norm()))
    initialise(model, seed=0)
    checkpoint.save(model, folder)
    tokenizer.save(folder)
    return folder
