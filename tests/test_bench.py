"""`make bench`: what it runs, what its files say, and the page that is made of them."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssmbench.suites.zero_shot import SIX

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "benchmarks"
sys.path.append(str(SCRIPTS))

import bench  # noqa: E402
import measuring  # noqa: E402
import performance  # noqa: E402
import targets  # noqa: E402

MIXER = targets.mixer("mamba2-130m", "cpu", batch=4, length=512)


def result(ratio: float, **changes: Any) -> dict[str, Any]:
    machine = {"processor": "Zen", "cores": 2, "torch": "2.13"}
    spread = {"median": ratio, "lower": ratio - 0.1, "upper": ratio + 0.1, "n": 5}
    told = {"command": "python benchmarks/mixers.py", "date": "2026-11-22", "machine": machine}
    return told | {"disturbance": None, "targets": {MIXER: spread}} | changes


def write(folder: Path, name: str, told: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))


def line_of(page: str, begins: str) -> str:
    (line,) = [x for x in page.splitlines() if x.startswith(f"| {begins}")]
    return line


SSD_CPU = "whole SSD mixer ÷ its own matrix products, B 4, L 512, d_model 768, one thread"


# --- the page -----------------------------------------------------------------------------


def test_the_page_is_that_of_the_committed_results() -> None:
    page = (ROOT / "docs/performance.md").read_text("utf-8")
    assert page == performance.page(), "run `python benchmarks/performance.py`"


@pytest.mark.parametrize(("ratio", "met"), [(1.38, "met"), (1.4, "met"), (1.41, "missed")])
def test_a_row_says_what_was_reached_where_and_when(tmp_path: Path, ratio: float, met: str) -> None:
    write(tmp_path, "mixers_cpu.json", result(ratio))
    page = performance.page(tmp_path)
    shown = f"{ratio:.2f} [{ratio - 0.1:.2f}, {ratio + 0.1:.2f}]"
    assert line_of(page, SSD_CPU).endswith(
        f"| ≤ 1.4 | {shown} | {met} | Zen, 2 cores, torch 2.13 | 2026-11-22 |"
    )
    assert "\n    python benchmarks/mixers.py\n" in page
    assert "| ≥ 20 | not measured | | | |" in line_of(page, "continuation")
    assert "†" not in page


def test_of_two_files_the_later_counts_and_old_forms_count_for_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a.json", result(1.1, date="2026-11-23"))
    write(tmp_path, "b.json", result(1.2, date="2026-11-22"))
    write(tmp_path, "c.json", {"machine": {}, "results": []})
    write(tmp_path, "d.json", [1])
    assert "| 1.10 [1.00, 1.20] |" in line_of(performance.page(tmp_path), SSD_CPU)


def test_a_machine_that_was_not_idle_is_marked(tmp_path: Path) -> None:
    write(tmp_path, "a.json", result(1.2, disturbance="others used 1.0 of 2 processors meanwhile"))
    page = performance.page(tmp_path)
    assert "| 1.20† [1.10, 1.30] |" in line_of(page, SSD_CPU)
    assert "† The machine was not idle (others used 1.0 of 2 processors meanwhile)" in page


def gpu(step: str, **changes: Any) -> dict[str, Any]:
    told = {"step": step, "status": "ok", "small": False, "device": "H200", "torch": "2.13"}
    return told | {"date": "2026-11-22T10:00:00+00:00"} | changes


def row(model: str, length: int, mine: float, **more: Any) -> dict[str, Any]:
    raw = {"dense_raw_s": [2.0, 2.0, 2.2], "raw_s": [mine] * 3, "speedup": 2 / mine}
    return {"model": model, "phase": "prefill", "length": length} | raw | more


def test_gpu_rows_are_read_from_gpu_check(tmp_path: Path) -> None:
    rows = [
        row("mamba2-2.7b", 2048, 2.0),
        row("mamba2-2.7b", 8192, 1.0),
        row("mamba-2.8b", 8192, 2.0) | {"speedup": None},
    ]
    write(tmp_path, "gpu/simba.json", gpu("simba", rows=rows))
    raw = [{"hflm": [3.0, 4.0], "ours": [1.0, 2.0]}, {"hflm": [1.0, 2.0], "ours": [1.0, 1.0]}]
    write(tmp_path, "gpu/scoring.json", gpu("scoring", rows=[{"raw_s": r} for r in raw]))
    kept = [row("x", 512, 1.0, method="state", params_kept=0.4)]
    kept.append(row("x", 512, 1.0, method="head", params_kept=0.8) | {"phase": "decode"})
    write(tmp_path, "gpu/structured.json", gpu("structured", rows=kept))
    page = performance.page(tmp_path)
    where = "| H200, torch 2.13 | 2026-11-22 |"
    simba = line_of(page, "GPU: Simba prefill, mamba2-2.7b")
    assert simba.endswith(f"| ≥ 1.7 | 2.00 [2.00, 2.20] | met {where}")
    assert "waiting for a GPU" in line_of(page, "GPU: Simba prefill, mamba-2.8b")
    scored = line_of(page, "GPU: mamba2-2.7b's shape, bf16, six tasks")
    assert scored.endswith(f"| ≥ 1.7 | 2.00 [2.00, 2.00] | met {where}")
    state = line_of(page, "GPU: mamba2-2.7b's shape, bf16, state 0.5")
    assert state.endswith(f"| ≤ 1.15 | 1.25 [1.25, 1.25] | missed {where}")
    assert "waiting for a GPU" in line_of(page, "GPU: mamba2-2.7b's shape, bf16, head 0.5")


def test_what_graphs_and_kernels_gain_is_read_from_gpu_check(tmp_path: Path) -> None:
    step = {"model": "mamba2-2.7b", "batch": 1, "graph": "captured"}
    times = {"plain_s": [2.0, 3.0, 2.0], "graph_s": [1.0, 1.0, 1.0]}
    rows = [step | times, step | times | {"batch": 16, "plain_s": [9.0] * 3}]
    rows.append(step | times | {"model": "mamba-2.8b", "graph": "it runs on a processor"})
    write(tmp_path, "gpu/decoding.json", gpu("decoding", rows=rows))
    trained = [
        {"model": "mamba-130m", "asked": asked, "tokens_per_s": rate}
        for asked, rate in (("auto", 30.0), ("torch", 10.0))
    ]
    write(tmp_path, "gpu/training.json", gpu("training", rows=trained))
    page = performance.page(tmp_path)
    where = "| H200, torch 2.13 | 2026-11-22 |"
    step_of = "GPU: a decoding step of one sequence, "
    assert line_of(page, f"{step_of}mamba2-2.7b").endswith(f"|  | 2.00 [2.00, 3.00] |  {where}")
    assert "waiting for a GPU" in line_of(page, f"{step_of}mamba-2.8b")
    assert line_of(page, "GPU: distilling mamba-130m").endswith(
        f"|  | 3.00 [3.00, 3.00] |  {where}"
    )
    assert "waiting for a GPU" in line_of(page, "GPU: distilling mamba2-130m")


@pytest.mark.parametrize("changes", [{"small": True}, {"status": "failed"}, {"rows": []}])
def test_a_trial_or_a_failure_on_a_gpu_fills_nothing(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    told = gpu("simba", rows=[row("mamba2-2.7b", 8192, 1.0)]) | changes
    write(tmp_path, "gpu/simba.json", told)
    assert "waiting for a GPU" in line_of(performance.page(tmp_path), "GPU: Simba prefill, mamba2")


def test_every_row_of_the_issue_is_there() -> None:
    goals = [target.goal for target in performance.TARGETS if target.goal is not None]
    assert goals == [8, 4, 7, *[1.4] * 2, *[1.6] * 2, 20, 0.95, 0.85, 1, 1.7, 1.7, 1.7, *[1.15] * 3]
    assert targets.SIX_TASKS == SIX
    names = [t.source for t in performance.TARGETS if isinstance(t.source, str)]
    assert len(set(names)) == len(names) == 15
    assert "six_tasks_0shot_200docs_mamba2-130m" in names
    assert "mixer_mamba-130m_B4_L512_wall" in names
    assert "simba_saved_mamba-130m_T2048_ratio0.9" in names


def test_a_row_without_a_target_tells_what_was_found_and_is_neither_met_nor_missed(
    tmp_path: Path,
) -> None:
    name = targets.half("mamba2-130m", "native", "prefill", 2048)
    (row,) = [t for t in performance.TARGETS if t.source == name]
    assert f"| {row.what} |  | not measured | | | |" in performance.page(tmp_path)
    write(tmp_path, "half_cpu.json", result(1.9, targets={name: result(1.9)["targets"][MIXER]}))
    shown = line_of(performance.page(tmp_path), row.what)
    assert "|  | 1.90 [1.80, 2.00] |  | Zen, 2 cores, torch 2.13 |" in shown


def test_a_figure_of_other_sizes_has_another_name_and_fills_no_row(tmp_path: Path) -> None:
    other = targets.mixer("mamba2-130m", "cpu", batch=2, length=64)
    write(tmp_path, "a.json", result(1.2, targets={other: result(1.2)["targets"][MIXER]}))
    assert "not measured" in line_of(performance.page(tmp_path), SSD_CPU)
    few = targets.scoring("m", SIX, shots=0, limit=2)
    assert few != targets.scoring("m", SIX, shots=0, limit=200)
    assert targets.scoring("m", SIX, shots=0, limit=2, chunk=64) != few
    assert targets.simba("m", 8, 0.9, "both") != targets.simba("m", 8, 0.9)


# --- measuring ----------------------------------------------------------------------------


def test_a_spread_has_quartiles_or_ends() -> None:
    assert measuring.spread([3, 1, 2]) == {"median": 2, "lower": 1, "upper": 3, "n": 3}
    five = measuring.spread([5, 1, 2, 4, 3])
    assert five == {"median": 3, "lower": 1.5, "upper": 4.5, "n": 5}


def test_turns_alternate_after_one_that_does_not_count() -> None:
    told: list[str] = []
    ticks = iter(range(100))
    works = {name: (lambda name=name: told.append(name)) for name in ("a", "b")}
    found = measuring.take_turns(
        works,
        turns=2,
        clock=lambda: float(next(ticks)),
        before=lambda name: told.append(f"before {name}"),
    )
    assert found == {"a": [1, 1], "b": [1, 1]}
    assert told[::2] == [f"before {name}" for name in told[1::2]]
    assert told[1::2] == ["b", "a", "a", "b", "b", "a"]


def test_a_command_line_names_no_folder_of_this_machine() -> None:
    words = ["/home/me/benchmarks/x.py", "--data", "/home/me/data", "--limit", "5", "--out", "/f"]
    shown = measuring.command_line(words)
    assert shown == "python benchmarks/x.py --data DATA --limit 5 --out FILE"


def test_a_result_file_says_where_it_is_from(tmp_path: Path, capsys: Any) -> None:
    report = measuring.Report("x")
    report.targets["t"] = measuring.spread([1, 2])
    report._watch = SimpleNamespace(end=lambda: SimpleNamespace(disturbance="others used 1"))
    report.write(tmp_path / "new/x.json")
    told = json.loads((tmp_path / "new/x.json").read_text())
    assert told["targets"] == {"t": {"median": 1.5, "lower": 1, "upper": 2, "n": 2}}
    assert told["disturbance"] == "others used 1"
    assert {"processor", "cores", "threads", "python", "torch"} <= told["machine"].keys()
    assert told["date"][:2] == "20"
    assert "not to be published: others used 1" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.json"]


# --- what HFLM scores ---------------------------------------------------------------------


def test_the_draw_takes_one_document_of_every_part() -> None:
    lengths = [9, 1, 8, 2, 7, 3, 6, 4]

    def drawn(seed: int) -> tuple[int, ...]:
        return tuple(measuring.stratified(lengths, 4, random.Random(seed), size=int))

    draws = {drawn(seed) for seed in range(30)}
    assert all(a in (1, 2) and b in (3, 4) and c in (6, 7) and d in (8, 9) for a, b, c, d in draws)
    assert len(draws) > 4
    assert drawn(1) == drawn(1)


def test_the_ratio_of_all_tasks_is_of_times_per_document() -> None:
    first = {"ours": [1.0, 2.0], "hflm": [10.0, 2.0]}
    assert measuring.in_all([first, {"ours": [3.0, 2.0], "hflm": [10.0, 2.0]}]) == [5.0, 1.0]


# --- the runner ---------------------------------------------------------------------------


def test_a_command_has_data_where_it_is_needed() -> None:
    scored = next(b for b in bench.BENCHES if b.needs_data)
    args = SimpleNamespace(data=Path("D"), quick=True)
    words = bench.command(scored, args, Path("out"))
    assert words[1] == str(SCRIPTS / scored.script)
    assert words[-5:] == ["--data", "D", "--quick", "--out", f"out/{scored.name}.json"]
    plain = bench.command(bench.BENCHES[0], SimpleNamespace(data=None, quick=False), Path("out"))
    assert plain[2:] == ["--out", f"out/{bench.BENCHES[0].name}.json"]


def test_all_of_it_takes_at_most_35_minutes() -> None:
    assert sum(b.minutes for b in bench.BENCHES) <= 35
    assert all((SCRIPTS / b.script).is_file() for b in bench.BENCHES)


SCRIPT = """
import json, sys
from pathlib import Path
assert {check}
Path(sys.argv[-1]).parent.mkdir(parents=True, exist_ok=True)
Path(sys.argv[-1]).write_text(json.dumps({told}))
"""


@pytest.mark.parametrize(
    ("check", "data", "code"), [("True", ["--data", "D"], 0), ("False", [], 1), ("True", [], 3)]
)
def test_a_trial_runs_each_script_and_leaves_the_committed_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, check: str, data: list, code: int
) -> None:
    script = SCRIPT.replace("{told}", repr(result(1.2)))
    (tmp_path / "good.py").write_text(script.replace("{check}", "'--quick' in sys.argv"))
    (tmp_path / "other.py").write_text(script.replace("{check}", check))
    benches = (
        bench.Bench("good", "good.py", (), 1),
        bench.Bench("other", "other.py", (), 1),
        bench.Bench("scored", "good.py", (), 1, needs_data=True),
    )
    monkeypatch.setattr(bench, "BENCHES", benches)
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(performance, "write", lambda: pytest.fail("a trial wrote the page"))
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick", *data])
    assert bench.main() == code
    out = capfd.readouterr().out
    assert re.search(rf"{re.escape(MIXER)} +1\.20$", out, re.MULTILINE)
    written = sorted(p.name for p in (tmp_path / "build/bench").iterdir())
    assert written == ["good.json"] + ["other.json"] * (check == "True") + ["scored.json"] * bool(
        data
    )
    assert ("needs --data" in out) is not bool(data)
    assert ("failed after" in out) is (code == 1)
    assert not (tmp_path / "results").exists()


def test_the_makefile_runs_it() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "bench", "QUICK=1", "DATA=D"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "benchmarks/bench.py --data D --quick" in done.stdout
