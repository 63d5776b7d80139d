"""A training that is killed, stopped or short of memory ends as one to which nothing happened."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from execute_helpers import Recorder, make_entry, make_model
from finetune_helpers import Memory, fine_tuned, noisy, recipe
from store_helpers import new_run

from ssmbench.errors import DataError
from ssmbench.execute import attempt, policy
from ssmbench.execute.driver import Driver
from ssmbench.execute.inline import DeadlineError, InlineExecutor
from ssmbench.execute.interrupts import Stop
from ssmbench.execute.job import Job
from ssmbench.execute.prepare import Request, prepare
from ssmbench.execute.task import Settings, tasks_of
from ssmbench.finetune import checkpoint, loop, train
from ssmbench.finetune.interrupts import undisturbed
from ssmbench.store import atomic
from ssmbench.store.artifacts import Artifacts, Series
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import Ledger

STEPS = 12
GRID = """
models: [{{name: tiny, path: {model}}}]
methods: [{{method: {method}, ratio: 0.5}}]
suites:
  - {{suite: perplexity, data: tinyworld, length: 64}}
  - {{suite: latency, prefill: [[1, 32]], decode: [[1, 32]], repeats: 2, decode_steps: 4}}
fine_tune:
  - fine_tune: {kind}
    data: tinyworld
    steps: 12
    warmup: 2
    batch: 4
    length: 16
    learning_rate: 0.01
    dtype: float32
    log_every: 5
calibration: {{samples: 4, length: 32, data: tinyworld}}
"""

numbers = itertools.count()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def make_job(path: Path, model: Path, *, kind: str = "kd", suites: str = "quality") -> Job:
    """Make a job for the grid's one trained cell."""
    method = "simba" if kind == "dense+sparse" else "wanda"
    path.mkdir(parents=True, exist_ok=True)
    grid = path / "grid.yaml"
    grid.write_text(GRID.format(model=model, method=method, kind=kind))
    (entry,) = (
        e for e in prepare(Request(grid=grid, limit=2)).entries if e.cell.fine_tune.kind == kind
    )
    return Job(
        folder=str(new_run(path / "run").path),
        cell=entry.cell,
        suites=tuple(s for s in entry.suites if s.kind == suites),
        attempt_id="unnamed",
        number=1,
        log="",
        data=None,
        device="cpu",
        batch_tokens=512,
        num_cpus=1,
        offline=True,
        capture=False,
        checkpoint_s=0.0,
    )


def named(job: Job) -> Job:
    name = f"attempt{next(numbers)}"
    return replace(job, attempt_id=name, log=f"logs/{name}.log")


def run(job: Job, report=lambda *_: None) -> dict:
    job = named(job)
    outcome = attempt.run_attempt(job, report)
    assert outcome["status"] == "done", log_of(job)
    return outcome


def log_of(job: Job) -> str:
    return (Path(job.folder) / job.log).read_text()


def artifacts(job: Job, kind: str) -> list[Path]:
    """List the run's artifacts of a kind: trained, or training for checkpoints."""
    found = sorted(RunFolder(Path(job.folder)).artifacts_dir.glob("[!.]*"))
    return [p for p in found if f'"artifact": "{kind}"' in (p / "key.json").read_text()]


def outcome_of(job: Job) -> dict[str, object]:
    """Give everything that the cell is and what was measured of it, but for times and names."""
    (trained,) = artifacts(job, "trained")
    found: dict[str, object] = {"weights": (trained / "tensors.safetensors").read_bytes()}
    found["record"] = json.loads((trained / "training.json").read_text())
    for row in found["record"]["rows"]:  # type: ignore[index]
        del row["seconds"]
    for path in sorted(Path(job.folder).rglob("*.parquet")):
        frame = pl.read_parquet(path)
        frame = frame.drop("attempt_id", "seconds", strict=False)
        if "suite" in frame.columns and frame["suite"][0] != "latency":
            found[f"{frame['suite'][0]} {frame.columns}"] = frame.sort(frame.columns).rows()
    assert len(found) >= 5
    return found


@pytest.fixture(scope="module", params=["kd", "dense+sparse"])
def calm(request, tmp_path_factory, model_folder) -> tuple[str, dict[str, object]]:
    """A training to which nothing happened: its kind, and what came of it."""
    job = make_job(tmp_path_factory.mktemp("calm"), model_folder, kind=request.param)
    run(job)
    assert not artifacts(job, "training")
    return request.param, outcome_of(job)


def die_at(job: Job, step: int, moment: str) -> None:
    """Run an attempt that kills its own process in a moment of its training.

    Checkpoints are made after every third step, so that steps since then are done again.
    """
    held: list[loop.Loop] = []

    def wrap(owner, name: str, *, after: bool) -> None:
        whole = getattr(owner, name)

        def dying(*args, **options):
            result = whole(*args, **options) if after else None
            if held and held[0].numbers.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result if after else whole(*args, **options)

        setattr(owner, name, dying)

    whole_run, whole_save = loop.Loop.run, loop.Loop._save

    def run(self, *rest):
        held.append(self)
        whole_run(self, *rest)

    def save(self, *rest):
        if self.numbers.step % 3 == 0:
            whole_save(self, *rest)

    loop.Loop.run, loop.Loop._save = run, save
    owner, name, after = MOMENTS[moment]
    wrap(owner, name, after=after)
    attempt.run_attempt(named(job), lambda *_: None)


MOMENTS = {
    "before a pass": (loop.Loop, "_backward", False),
    "after a pass": (loop.Loop, "_backward", True),
    "in the update": (torch.optim.AdamW, "step", True),
    "before it is told": (loop.Loop, "_tell", False),
    "before it is kept": (checkpoint, "write", True),
    "after it is kept": (atomic.os, "rename", True),
}


def kill_points(seed: int) -> list[tuple[int, str]]:
    """Draw ten moments, and a step for each in which it comes."""
    drawn = random.Random(seed)
    found = []
    for i in range(10):
        moment = list(MOMENTS)[i % len(MOMENTS)]
        steps = (3, 6, 9) if "kept" in moment else range(STEPS)
        found.append((drawn.choice(steps), moment))
    return found


def last_kept(step: int, moment: str) -> int:
    """Say which checkpoint a process that died so has left, 0 for none."""
    before = moment in ("before it is told", "before it is kept")
    return max(0, step - before) // 3 * 3


@pytest.fixture(scope="module")
def processes():
    """Processes that are forked from one which has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_finetune_resume", "peft"])
    return context


def test_ten_kills_at_random_change_no_bit(calm, processes, tmp_path, model_folder):
    kind, expected = calm
    for i, (step, moment) in enumerate(kill_points(7)):
        job = make_job(tmp_path / str(i), model_folder, kind=kind)
        process = processes.Process(target=die_at, args=(job, step, moment))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (step, moment)
        assert not artifacts(job, "trained"), (step, moment)
        kept = [int(path.suffix[1:]) for path in artifacts(job, "training")]
        assert max(kept, default=0) == last_kept(step, moment), (step, moment)
        again = replace(named(job), checkpoint_s=1e9)
        assert attempt.run_attempt(again, lambda *_: None)["status"] == "done", log_of(again)
        resumed = f"goes on after step {max(kept, default=0)}, " in log_of(again)
        assert resumed == bool(kept), (step, moment)
        assert outcome_of(job) == expected, (step, moment)
        assert not artifacts(job, "training")


def stopped(job: Job, step: int, error: BaseException) -> Job:
    """Run an attempt that an error ends after a step of its training; give it, with its log."""

    def report(name: str, done: int, total: int, note: str = "") -> None:
        if (name, done, bool(note)) == ("fine-tune", step, True):
            raise error

    job = replace(named(job), checkpoint_s=1e9)
    if isinstance(error, Exception):
        assert attempt.run_attempt(job, report)["status"] == "failed"
    else:
        with pytest.raises(type(error)):
            attempt.run_attempt(job, report)
    return job


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), DeadlineError("late")])
def test_a_stop_leaves_a_checkpoint(calm, tmp_path, model_folder, error):
    kind, expected = calm
    job = make_job(tmp_path, model_folder, kind=kind)
    assert "stopped after step 7; it is kept" in log_of(stopped(job, 7, error))
    assert [path.suffix for path in artifacts(job, "training")] == [".7"]
    again = replace(named(job), checkpoint_s=1e9)
    attempt.run_attempt(again, lambda *_: None)
    assert "goes on after step 7" in log_of(again)
    assert outcome_of(job) == expected


def test_a_stop_in_the_middle_of_a_step_goes_back_to_its_start(
    calm, tmp_path, model_folder, monkeypatch
):
    """By then dropout has drawn what it will have to draw again."""
    kind, expected = calm
    job = make_job(tmp_path, model_folder, kind=kind)
    whole = loop.Loop._backward

    def backward(self, *rest):
        found = whole(self, *rest)
        if self.__dict__.get("numbers") and self.numbers.step == 7:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_backward", backward)
        with pytest.raises(KeyboardInterrupt):
            attempt.run_attempt(replace(named(job), checkpoint_s=1e9), lambda *_: None)
    assert [path.suffix for path in artifacts(job, "training")] == [".7"]
    run(job)
    assert outcome_of(job) == expected


def test_a_signal_inside_the_update_waits_for_its_end(calm, tmp_path, model_folder, monkeypatch):
    kind, expected = calm
    job = make_job(tmp_path, model_folder, kind=kind)
    whole = torch.optim.AdamW.step
    steps = []

    def step(self, *rest):
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)
            steps.append("went on")
        return whole(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(KeyboardInterrupt):
        attempt.run_attempt(replace(named(job), checkpoint_s=1e9), lambda *_: None)
    assert steps[-1] == "went on"
    assert [path.suffix for path in artifacts(job, "training")] == [".5"]
    run(job)
    assert outcome_of(job) == expected


def test_signals_wait_for_the_end_of_a_block_and_come_in_their_order():
    came = []
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: came.append(n))
    try:
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(1000))
            assert not came
        assert sorted(came) == [signal.SIGINT, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_an_error_in_the_middle_of_an_update_keeps_nothing(tmp_path, monkeypatch):
    memory = Memory(tmp_path)
    monkeypatch.setattr(loop.Loop, "_note", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fine_tuned(noisy(), recipe(), checkpoints=memory)
    assert not memory.kept


@pytest.mark.parametrize("file", ["training.safetensors", "training.json", "key.json"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    calm, tmp_path, model_folder, file, processes
):
    kind, expected = calm
    job = make_job(tmp_path, model_folder, kind=kind)
    process = processes.Process(target=die_at, args=(job, 8, "before it is told"))
    process.start()
    process.join(120)
    older, newest = sorted(artifacts(job, "training"))
    assert (older.suffix, newest.suffix) == (".3", ".6")
    found = newest / file
    found.write_bytes(found.read_bytes()[:-9])
    again = named(job)
    attempt.run_attempt(again, lambda *_: None)
    assert f"the one before is used, if there is one: {newest}: is damaged" in log_of(again)
    assert "goes on after step 3" in log_of(again)
    assert outcome_of(job) == expected


def test_a_finished_training_is_found_by_attempts_that_measure_time(
    tmp_path, model_folder, monkeypatch
):
    job = make_job(tmp_path, model_folder)
    run(job)
    before = outcome_of(job)
    timing = make_job(tmp_path / "timing", model_folder, suites="timing")
    assert timing.kind == "timing"
    # Another number of threads, and a smaller batch, as after a full memory.
    timing = replace(timing, folder=job.folder, batch_tokens=64)
    monkeypatch.setattr(train, "fine_tune", lambda *_, **__: pytest.fail("trained again"))
    for other in (timing, replace(job, batch_tokens=64)):
        again = named(other)
        assert attempt.run_attempt(again, lambda *_: None)["status"] == "done", log_of(again)
        assert "training: found, artifact" in log_of(again)
    assert outcome_of(job) == before


def test_ratios_of_a_method_that_only_drops_tokens_share_a_training(tmp_path, model_folder):
    job = make_job(tmp_path, model_folder, kind="dense+sparse")
    run(job)
    (step,) = job.cell.steps
    other = replace(job, cell=replace(job.cell, steps=(replace(step, ratio=0.25),)))
    again = named(other)
    attempt.run_attempt(again, lambda *_: None)
    assert "training: found, artifact" in log_of(again)
    changed = replace(step, params={**step.params, "criterion": "uniform"})
    for cell in (
        replace(job.cell, steps=(changed,)),
        replace(job.cell, seed=1),
        replace(
            job.cell,
            fine_tune=replace(job.cell.fine_tune, params={**job.cell.fine_tune.params, "seed": 3}),
        ),
    ):
        again = named(replace(job, cell=cell))
        attempt.run_attempt(again, lambda *_: None)
        assert "training: found" not in log_of(again)
    assert len(artifacts(job, "trained")) == 4


def test_a_process_that_died_after_the_end_leaves_nothing_to_do(tmp_path, model_folder):
    job = make_job(tmp_path, model_folder)
    with pytest.MonkeyPatch.context() as patch:

        def die(self) -> None:
            raise KeyboardInterrupt

        patch.setattr(Series, "clear", die)
        with pytest.raises(KeyboardInterrupt):
            attempt.run_attempt(named(job), lambda *_: None)
    assert len(artifacts(job, "training")) == 2
    run(job)
    assert not artifacts(job, "training")


def test_a_full_memory_halves_the_batch_and_the_training_goes_on(calm, tmp_path, model_folder):
    """Through the driver: 4 windows at once are too many from step 5 on."""
    kind, expected = calm
    grid = make_job(tmp_path, model_folder, kind=kind)
    folder = RunFolder(Path(grid.folder))
    entry = make_entry(grid.cell, batch_tokens=80, timeout_s=600.0)
    entry = replace(entry, suites=grid.suites, checkpoint_s=1e9)
    whole = loop.Loop._backward
    sizes = []

    def full(self, chosen, *rest):
        sizes.append(len(chosen))
        if self.__dict__.get("numbers") and self.numbers.step == 5 and len(chosen) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, chosen, *rest)

    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch, Ledger.open(folder) as ledger:
        patch.setattr(loop.Loop, "_backward", full)
        patch.setattr(policy, "MIN_BATCH_TOKENS", 16)
        driver = Driver(
            tasks_of(entry, entry.suites, seconds=None, attempts_before=0),
            executor=InlineExecutor(pause=lambda _: None),
            ledger=ledger,
            display=recorder,
            settings=Settings(data=None, offline=True),
            stop=Stop(),
        )
        summary = driver.run()
    assert (summary.n_done, summary.n_retried, summary.lost) == (1, 1, [])
    assert recorder.lines[0] == ("retried", "gpu_oom 0")
    assert sizes == [1, *[4] * 6, 1, *[2] * 14]
    logs = [path.read_text() for path in (folder.path / "logs").rglob("*.log")]
    assert sum("goes on after step 5" in log for log in logs) == 1
    job = replace(grid, folder=str(folder.path))
    found = outcome_of(job)["record"]
    wanted = expected["record"]
    assert found["loss_before"] == wanted["loss_before"]
    assert found["rows"][0] == wanted["rows"][0]
    assert found["loss_after"] == pytest.approx(wanted["loss_after"], rel=0.05)


def series(path: Path) -> Series:
    return Artifacts(new_run(path)).series({"artifact": "training", "x": 1})


def write(text: str):
    return lambda folder: (folder / "file").write_text(text)


def test_a_series_keeps_its_newest_two(tmp_path):
    found = series(tmp_path / "run")
    assert found.latest() is None
    for step in (8, 9, 10, 11):
        found.save(step, write(str(step)))
    step, path = found.latest()
    assert (step, (path / "file").read_text()) == (11, "11")
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".10", ".11"]
    found.clear()
    assert found.latest() is None
    assert not list(path.parent.iterdir())


def test_a_damaged_one_is_passed_over_and_mended_by_the_next_of_its_step(tmp_path, caplog):
    found = series(tmp_path / "run")
    found.save(1, write("one"))
    found.save(2, write("two"))
    (found.latest()[1] / "file").write_text("three")
    with caplog.at_level(logging.WARNING):
        assert found.latest()[0] == 1
    assert "is damaged (file has changed)" in caplog.text
    found.save(2, write("two"))
    step, path = found.latest()
    assert (step, (path / "file").read_text()) == (2, "two")


def test_two_series_do_not_see_each_other(tmp_path):
    artifacts = Artifacts(new_run(tmp_path / "run"))
    one, other = artifacts.series({"x": 1}), artifacts.series({"x": 2})
    one.save(3, write("one"))
    artifacts.publish({"x": 2}, write("not of the series"))
    assert other.latest() is None
    other.save(1, write("other"))
    assert one.latest()[0] == 3
    other.clear()
    assert one.latest()[0] == 3
    assert artifacts.get({"x": 2}) is not None


def test_a_checkpoint_that_is_not_this_trainings_is_refused(tmp_path):
    memory = Memory(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fine_tuned(noisy(), recipe(), checkpoints=memory, report=interrupt)
    with pytest.raises(DataError, match="cannot be read as this training's checkpoint"):
        fine_tuned(noisy(), recipe(rank=3), checkpoints=memory)


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def test_checkpoints_hold_no_pickle(tmp_path):
    memory = Memory(tmp_path)
    fine_tuned(noisy(), recipe(adapters="all"), checkpoints=memory, checkpoint_s=0)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.suffix in {".safetensors", ".json"}
            assert path.read_bytes()[:2] != b"PK"
    assert list(memory.kept) == [1, 2, 3, 4, 5, 6]
    numbers = json.loads((memory.kept[4] / "training.json").read_text())
    assert numbers["step"] == 4


@pytest.mark.parametrize("adapted", ["lora", "all"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_going_on_from_any_step_changes_no_bit(tmp_path, adapted, dtype):
    wanted = recipe(adapters=adapted, dtype=dtype)
    memory = Memory(tmp_path)
    whole = fine_tuned(noisy(), wanted, checkpoints=memory, checkpoint_s=0)
    for step, path in memory.kept.items():
        torch.manual_seed(step)
        model = noisy()
        again = fine_tuned(model, wanted, checkpoints=Memory(tmp_path / "no", {step: path}))
        assert all(torch.equal(again.tensors[n], t) for n, t in whole.tensors.items()), step
        assert again.loss_before == whole.loss_before
        assert again.loss_after == whole.loss_after
        for a, b in zip(again.rows, whole.rows, strict=True):
            assert {**a, "seconds": 0} == {**b, "seconds": 0}
        times = [row["seconds"] for row in again.rows]
        assert times == sorted(times)
