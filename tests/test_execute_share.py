"""What cells share: computed once, the same bits for all, and never mixed up."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from execute_helpers import make_model
from store_helpers import new_run

from ssmbench.errors import CommandError, StoreError
from ssmbench.execute import attempt
from ssmbench.execute.job import Job
from ssmbench.execute.prepare import Request, prepare
from ssmbench.execute.share import Shared
from ssmbench.kernels import backends
from ssmbench.models import precision
from ssmbench.plan.cells import Step
from ssmbench.store.folder import RunFolder
from ssmbench.surgery import compress
from ssmbench.surgery.context import MethodContext

GRID = """
models: [{{name: tiny, path: {model}}}]
methods:
  - {{method: state, ratio: [0.25, 0.5]}}
  - {{method: head_dim+state, ratio: 0.5}}
suites: [{{suite: perplexity, data: tinyworld, length: 64}}]
calibration: {{samples: 4, length: 32, data: tinyworld}}
"""

numbers = itertools.count()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def jobs(tmp_path: Path, model_folder: Path) -> dict[str, Job]:
    """One job for each compressed cell of the grid, all in one run folder."""
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.format(model=model_folder))
    folder = new_run(tmp_path / "run")
    made = {}
    for entry in prepare(Request(grid=grid, limit=2)).entries:
        made[f"{entry.cell.method} {entry.cell.ratio:g}"] = Job(
            folder=str(folder.path),
            cell=entry.cell,
            suites=entry.suites,
            attempt_id="unnamed",
            number=1,
            log="",
            data=None,
            device="cpu",
            batch_tokens=512,
            num_cpus=1,
            offline=True,
            capture=False,
        )
    return made


def run(job: Job) -> tuple[dict, str, pl.DataFrame | None]:
    """Attempt a job under a new name: the outcome, its log, and the samples if it ended well."""
    name = f"attempt{next(numbers)}"
    job = replace(job, attempt_id=name, log=f"logs/{name}.log")
    outcome = attempt.run_attempt(job, lambda *_: None)
    folder = RunFolder(Path(job.folder))
    path = folder.table_file(job.cell.id, name, job.suites[0].id, "samples")
    samples = pl.read_parquet(path) if path.exists() else None
    return outcome, (folder.path / job.log).read_text(), samples


def artifacts(job: Job) -> dict[str, Path]:
    """Give the run's artifacts by what they hold."""
    found = {}
    for path in RunFolder(Path(job.folder)).artifacts_dir.iterdir():
        kind = "windows" if '"artifact": "windows"' in (path / "key.json").read_text() else "other"
        assert kind not in found
        found[kind] = path
    return found


def test_what_one_cell_computes_another_finds(jobs):
    first, second = jobs["state 0.25"], jobs["state 0.5"]
    _, log, _ = run(first)
    found = artifacts(first)
    assert "calibration windows: computed in " in log
    assert f", artifact {found['windows']}\n" in log
    assert "statistics 'gradients': computed in " in log
    _, log, _ = run(second)
    assert f"calibration windows: found, artifact {found['windows']}\n" in log
    assert f"statistics 'gradients': found, artifact {found['other']}\n" in log
    assert artifacts(first) == found


def test_numbers_are_the_same_bits_whether_something_was_found_or_computed(jobs, tmp_path):
    _, _, alone = run(replace(jobs["state 0.5"], folder=str(new_run(tmp_path / "b").path)))
    run(jobs["state 0.25"])
    _, log, after = run(jobs["state 0.5"])
    assert "'gradients': found" in log
    assert alone is not None
    assert alone.equals(after)


def test_statistics_of_a_model_that_a_step_has_changed_are_others(jobs):
    job = jobs["head_dim+state 0.5"]
    run(jobs["state 0.5"])
    outcome, log, _ = run(job)
    assert outcome["status"] == "done"
    first, second = [line for line in log.splitlines() if "'gradients'" in line]
    assert ": found, " in first
    assert ": computed in " in second
    _, log, _ = run(job)
    assert log.count("'gradients': found") == 2


@pytest.mark.parametrize("which", ["windows", "other"])
def test_a_damaged_artifact_fails_the_cell_with_its_path_and_the_mend(jobs, which):
    job = jobs["state 0.5"]
    _, _, before = run(job)
    path = artifacts(job)[which]
    file = path / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    outcome, _, _ = run(job)
    assert outcome["error_class"] == "user"
    assert outcome["message"] == (
        f"{path}: is damaged (tensors.safetensors has changed). Delete this folder and run again:"
        " what it held is computed anew."
    )
    for inner in path.iterdir():
        inner.unlink()
    path.rmdir()
    outcome, _, after = run(job)
    assert outcome["status"] == "done"
    assert after.equals(before)


def test_of_two_attempts_at_once_both_end_with_what_the_first_published(jobs):
    shared = Shared(jobs["state 0.5"])

    def overtaken() -> dict[str, torch.Tensor]:
        shared.statistics({"statistics": "x"}, lambda: {"x": torch.tensor([1.0])})
        return {"x": torch.tensor([2.0])}

    found = shared.statistics({"statistics": "x"}, overtaken)
    assert found["x"].item() == 1.0


def other_key(job: Job) -> dict[str, Job]:
    """The same job but for one thing on which statistics depend."""
    cell = job.cell
    text = replace(cell.calibration, seed=cell.calibration.seed + 1)
    split = replace(cell.calibration, split="validation")
    return {
        "model": replace(job, cell=replace(cell, model=replace(cell.model, fingerprint="beef"))),
        "tokenizer": replace(
            job, cell=replace(cell, model=replace(cell.model, tokenizer_fingerprint="beef"))
        ),
        "windows": replace(job, cell=replace(cell, calibration=text)),
        "split": replace(job, cell=replace(cell, calibration=split)),
        "dtype": replace(job, cell=replace(cell, dtype="bfloat16")),
        "device": replace(job, device="cuda"),
        "batch": replace(job, batch_tokens=64),
        "threads": replace(job, num_cpus=2),
    }


def test_statistics_of_other_kernels_are_not_shared(jobs, monkeypatch):
    """Their last digits differ; `auto` may mean others on another machine."""
    job, key = jobs["state 0.5"], {"statistics": "x"}

    def value(number: float) -> float:
        return Shared(job).statistics(key, lambda: {"x": torch.tensor([number])})["x"].item()

    assert value(0.0) == 0.0
    for number, providers in enumerate(({"ssd": "triton"}, {"ssd": "mamba_ssm"}), start=1):
        choice = backends.Choice("auto", "cuda", providers)
        monkeypatch.setattr(backends, "_current", choice)
        assert value(number) == number
    monkeypatch.setattr(backends, "_current", backends.Choice("auto", "cuda"))
    assert value(9.0) == 0.0


def test_statistics_computed_in_another_type_are_not_shared(jobs, monkeypatch):
    """Another machine of the run may have units for bfloat16, and this one not."""
    job, key = jobs["state 0.5"], {"statistics": "x"}
    job = replace(job, cell=replace(job.cell, dtype="bfloat16"))
    for number, units in enumerate((True, False)):
        monkeypatch.setattr(precision, "cpu_has_bf16_units", lambda units=units: units)
        drawn = torch.tensor([float(number)])
        found = Shared(job).statistics(key, lambda drawn=drawn: {"x": drawn})
        assert found["x"].item() == number


def test_nothing_is_shared_by_cells_whose_statistics_may_differ(jobs):
    job = jobs["state 0.5"]

    def value(job: Job, number: float, **more: object) -> float:
        key = {"statistics": "x", **more}
        return Shared(job).statistics(key, lambda: {"x": torch.tensor([number])})["x"].item()

    assert value(job, 0.0) == 0.0
    for number, (name, other) in enumerate(other_key(job).items(), start=1):
        assert value(other, number) == number, name
    assert value(job, 99.0, version=2) == 99.0
    assert value(job, 100.0) == 0.0


def test_what_changes_no_statistics_shares_them(jobs):
    job = jobs["state 0.5"]
    cell, limited = jobs["state 0.25"].cell, replace(job.suites[0], limit=1)
    moved = replace(cell, model=replace(cell.model, name="other", source="folder:/elsewhere"))
    same = [replace(job, cell=cell), replace(job, cell=moved), replace(job, suites=(limited,))]
    Shared(job).statistics({"statistics": "x"}, lambda: {"x": torch.tensor([1.0])})
    for other in same:
        found = Shared(other).statistics({"statistics": "x"}, lambda: pytest.fail("computed"))
        assert found["x"].item() == 1.0


def test_windows_depend_on_the_text_and_the_tokenizer_alone(jobs):
    job = jobs["state 0.5"]
    Shared(job).windows(lambda: torch.tensor([[1]]))
    for name, other in other_key(job).items():
        found = Shared(other).windows(lambda: torch.tensor([[2]]))
        differs = name in {"tokenizer", "windows", "split"}
        assert found.tolist() == ([[2]] if differs else [[1]]), name


def test_random_numbers_go_on_as_if_nothing_had_been_computed(jobs):
    shared = Shared(jobs["state 0.5"])

    def draws() -> dict[str, torch.Tensor]:
        return {"x": torch.rand(3)}

    torch.rand(5)
    computed = shared.statistics({"statistics": "x"}, draws)["x"]
    after_computing = torch.rand(3)
    found = shared.statistics({"statistics": "x"}, draws)["x"]
    assert torch.equal(torch.rand(3), after_computing)
    assert torch.equal(found, computed)


def test_a_tensor_that_is_a_view_of_another_survives(jobs):
    whole = torch.arange(6.0).view(2, 3)
    shared = Shared(jobs["state 0.5"])
    found = shared.statistics({"statistics": "x"}, lambda: {"a": whole.T, "b": whole[0]})
    assert torch.equal(found["a"], whole.T)
    assert torch.equal(found["b"], whole[0])


def test_a_step_says_in_its_keys_which_steps_went_before(monkeypatch):
    from ssmbench.methods import state

    keys = []

    def compress_nothing(model, *, ratio, params, context):
        context.share({"statistics": "x"}, dict)
        return ratio

    monkeypatch.setattr(state, "compress", compress_nothing)
    context = MethodContext(
        seed=3, calibration=None, share=lambda key, compute: keys.append(key) or compute()
    )
    steps = [Step("state", 1, 0.25, {"score": "random"}), Step("state", 1, 0.5, {})]
    compress.apply(None, steps, context)
    before = {"name": "state", "version": state.VERSION, "ratio": 0.25}
    after = {"seed": 3, "steps": [{**before, "params": {"score": "random"}}]}
    assert keys == [{"statistics": "x"}, {"statistics": "x", "after": after}]


@pytest.mark.parametrize(
    ("suite", "scored"),
    [
        ("{suite: perplexity, data: wikitext}", "wikitext-2-raw/wiki.test.raw"),
        ("{suite: zero_shot, tasks: [piqa]}", "piqa/validation.jsonl"),
        ("{suite: lm_eval, tasks: [arc_easy]}", "arc/ARC-Easy/test.jsonl"),
        ("wikitext", "wikitext-2-raw/test.pages.jsonl"),
    ],
)
def test_a_local_file_that_a_suite_scores_is_no_calibration(tmp_path, model_folder, suite, scored):
    path = tmp_path / "data" / scored
    path.parent.mkdir(parents=True)
    path.write_text('{"text": "once"}\n')
    grid = tmp_path / "grid.yaml"
    text = GRID.format(model=model_folder).replace("data: tinyworld}\n", f"data: {path}}}\n")
    text = text.replace("{suite: perplexity, data: tinyworld, length: 64}", suite)
    grid.write_text(text)
    prepare(Request(grid=grid))
    with pytest.raises(CommandError, match=r"scores .*; expected a text that no suite scores") as e:
        prepare(Request(grid=grid, data=tmp_path / "data"))
    assert f"calibration text {path}: the suite" in str(e.value)


def test_a_local_train_split_is_a_calibration(tmp_path, model_folder):
    path = tmp_path / "data" / "wikitext-2-raw" / "wiki.train.raw"
    path.parent.mkdir(parents=True)
    path.write_text("once upon a time")
    (path.parent / "wiki.test.raw").write_text("there was a state")
    grid = tmp_path / "grid.yaml"
    text = GRID.format(model=model_folder).replace("data: tinyworld}\n", f"data: {path}}}\n")
    grid.write_text(text.replace("data: tinyworld, length: 64", "data: wikitext"))
    entries = prepare(Request(grid=grid, data=tmp_path / "data")).entries
    assert {e.cell.calibration.path for e in entries if e.cell.calibration} == {str(path)}


def test_an_artifact_of_another_form_is_refused(jobs):
    shared = Shared(jobs["state 0.5"])
    shared.statistics({"statistics": "x"}, lambda: {"x": torch.tensor([1.0])})
    (path,) = RunFolder(Path(jobs["state 0.5"].folder)).artifacts_dir.iterdir()
    (path / "key.json").write_text("{}")
    with pytest.raises(StoreError, match=r"is damaged .*Delete this folder and run again"):
        shared.statistics({"statistics": "x"}, dict)


def test_a_job_says_all_that_a_key_is_made_of():
    """A new field of a job may change statistics: class it in `Shared` or here."""
    in_keys = {"cell", "device", "batch_tokens", "num_cpus", "backend"}
    elsewhere = {"folder", "suites", "attempt_id", "number", "log", "data", "offline", "capture"}
    elsewhere |= {"checkpoint_s", "gpu_share"}
    assert {f.name for f in dataclasses.fields(Job)} == in_keys | elsewhere
