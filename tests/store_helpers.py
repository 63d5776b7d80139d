"""Cells, suites and whole run folders made up for tests of the store and the reports."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from ssmbench.plan.cells import Calibration, Cell, FineTune, Model, Step, Suite
from ssmbench.store import attempts
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

TASKS = ("far_word", "ending", "choice", "facts_easy", "facts_hard", "pronoun")
CHANCE = dict(zip(TASKS, (0.02, 0.25, 0.5, 0.25, 0.25, 0.5), strict=True))


def make_cell(
    *,
    model: str = "zoo-mamba-s",
    method: str = "wanda",
    ratio: float = 0.5,
    seed: int = 0,
    dtype: str = "float32",
    params: dict[str, Any] | None = None,
    fine_tune: str = "none",
    recipe: dict[str, Any] | None = None,
    calibration: Calibration | None = None,
) -> Cell:
    return Cell(
        model=Model(model, f"zoo:{model}", f"weights-of-{model}", family="mamba"),
        steps=(Step(method, 1, ratio, params or {}),),
        calibration=calibration,
        fine_tune=FineTune(fine_tune, recipe or {}),
        seed=seed,
        dtype=dtype,
    )


def make_suite(name: str = "zero_shot", **options: Any) -> Suite:
    kind = "timing" if name == "latency" else "quality"
    options = {"params": {}, "version": 1, **options}
    return Suite(name=name, kind=kind, **options)


def new_run(path: Path) -> RunFolder:
    return RunFolder.create(path, grid_text="models: []\n", resolved={"models": []})


def acc_rows(correct: dict[str, list[int]], *, metric: str = "acc", **extra: Any) -> dict:
    """Metrics and samples of accuracy tasks from 0/1 lists; standard errors as lm-eval's."""
    rows: dict[str, list[dict[str, Any]]] = {"metrics": [], "samples": []}
    for task, xs in correct.items():
        n, mean = len(xs), sum(xs) / len(xs)
        stderr = math.sqrt(sum((x - mean) ** 2 for x in xs) / (n - 1) / n) if n > 1 else None
        rows["metrics"].append(
            {"task": task, "metric": metric, "value": mean, "stderr": stderr, "n": n}
            | {"higher_is_better": True, "chance": CHANCE.get(task), **extra}
        )
        rows["samples"] += [
            {"task": task, "doc_id": str(i), "metric": metric, "value": float(x), "weight": 1.0}
            for i, x in enumerate(xs)
        ]
    return rows


def nll_rows(
    nats: list[float], tokens: list[float], *, task: str = "wikitext", metric: str = "perplexity"
) -> dict:
    """Metrics and samples of a perplexity over documents."""
    value = math.exp(sum(nats) / sum(tokens))
    return {
        "metrics": [
            {"task": task, "metric": metric, "value": value, "stderr": None, "n": len(nats)}
            | {"higher_is_better": False}
        ],
        "samples": [
            {"task": task, "doc_id": str(i), "metric": "nll", "value": v, "weight": w}
            for i, (v, w) in enumerate(zip(nats, tokens, strict=True))
        ],
    }


def latency_rows(median_s: float, dense_s: float, *, points: Any = None) -> dict:
    points = points or [("prefill", 1, 512), ("decode", 1, 512), ("decode", 16, 512)]
    rows = []
    for k, (phase, batch, length) in enumerate(points, start=1):
        rows.append(
            {"device": "cpu", "phase": phase, "batch": batch, "length": length}
            | {"median_s": median_s * k, "dense_median_s": dense_s * k}
            | {"speedup": dense_s / median_s, "p10_s": median_s * k * 0.97}
            | {"p90_s": median_s * k * 1.05, "n": 5, "tokens_per_s": batch / median_s}
            | {"peak_memory_bytes": None, "raw_s": [median_s * k] * 5}
            | {"dense_raw_s": [dense_s * k] * 5}
        )
    return {"latency": rows}


def training_rows(losses: list[float], *, before: float, after: float, every: int = 10) -> dict:
    """What suite training gives of a cell that saw 64 tokens a step and took 0.5 s for each."""
    told = {"n": 4, "task": "tinyworld", "higher_is_better": False}
    steps = [every * (i + 1) for i in range(len(losses))]
    return {
        "metrics": [
            {"metric": "loss_before", "value": before, **told},
            {"metric": "loss_after", "value": after, **told},
        ],
        "training": [
            {"step": n, "loss": loss, "learning_rate": 1e-3, "gradient_norm": 1.0}
            | {"tokens": 64 * n, "seconds": 0.5 * n}
            for n, loss in zip(steps, losses, strict=True)
        ],
    }


def facts_of(cell: Cell) -> dict[str, Any]:
    kept = 1 - cell.ratio
    return {
        "params_model": int(100_000 + 300_000 * kept),
        "params_mixer": int(300_000 * kept),
        "params_model_dense": 400_000,
        "params_mixer_dense": 300_000,
        "nonzero_mixer": int(300_000 * kept),
        "compression_mixer": cell.ratio,
        "compression_paper_percent": 100 - 100 * int(300_000 * kept) // 300_000,
        "compression_model": 0.75 * cell.ratio,
        "ratio_achieved": cell.ratio,
        "state_bytes": int(8192 * (1 - cell.ratio / 2)),
        "state_bytes_dense": 8192,
        "flops_per_token": 200_000 + 600_000 * kept,
        "flops_per_token_dense": 800_000.0,
    }


def finish(
    folder: RunFolder, ledger: Ledger, cell: Cell, suite: Suite, rows: dict, *, attempt: str
) -> None:
    """Do what a worker and the driver do for one suite that succeeds."""
    ledger.cell(cell, list(ledger_suites(ledger, cell, suite)))
    mark = attempts.write_suite(
        folder,
        cell_id=cell.id,
        attempt_id=attempt,
        suite=suite,
        result_rows=rows,
        facts=facts_of(cell),
        seconds=1.5,
    )
    ledger.commit(mark)


def ledger_suites(ledger: Ledger, cell: Cell, suite: Suite) -> list[Suite]:
    """The suites already wanted of a cell, and this one."""
    known = ledger.history.wanted.get(cell.id, ())
    suites = {i: Suite.from_json(ledger.history.suites[i]) for i in known}
    return list((suites | {suite.id: suite}).values())


def fail(ledger: Ledger, cell: Cell, suites: list[Suite], **fields: Any) -> None:
    record = {"error_class": "gpu_oom", "message": "CUDA out of memory", "final": True}
    ledger.append(
        {"event": "failed", "cell": cell.id, "suites": [s.id for s in suites]}
        | {"attempt": f"x{cell.id}", "log": f"logs/{cell.id}/x.log", **record, **fields}
    )


def synthetic_run(path: Path, *, n_docs: int = 200, limit: int | None = None) -> RunFolder:
    """About forty cells: two models, four methods, one failure, one not run, three seeds."""
    folder = new_run(path)
    zero, ppl = make_suite("zero_shot", limit=limit), make_suite("perplexity", limit=limit)
    speed = make_suite("latency", device="cpu")
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run", "grid_hash": "0"})
        for cell in synthetic_cells():
            ledger.cell(cell, [zero, ppl, speed])
            if cell.method == "magnitude" and cell.ratio == 0.7:
                fail(ledger, cell, [zero, ppl, speed])
                continue
            if cell.method == "random" and cell.ratio == 0.7 and cell.seed == 2:
                continue
            loss = {"dense": 0, "random": 0.9, "magnitude": 0.5, "wanda": 0.35}[cell.method]
            keep = 1 - loss * cell.ratio - 0.02 * cell.seed
            correct = {
                t: [int(_u(t, i) < CHANCE[t] + (0.9 - CHANCE[t]) * keep) for i in range(n_docs)]
                for t in TASKS
            }
            n = len(ledger.history.committed)
            finish(folder, ledger, cell, zero, acc_rows(correct), attempt=f"a{n:05d}")
            tokens = [100.0 + i for i in range(20)]
            nats = [w * (1.2 + (1 - keep) + 0.1 * _u("n", i)) for i, w in enumerate(tokens)]
            finish(folder, ledger, cell, ppl, nll_rows(nats, tokens), attempt=f"b{n:05d}")
            median = 0.020 * (1 - 0.4 * cell.ratio)
            if cell.seed == 0:
                rows = latency_rows(median, 0.020)
                finish(folder, ledger, cell, speed, rows, attempt=f"c{n:05d}")
    return folder


def synthetic_cells() -> list[Cell]:
    cells = []
    for model in ("zoo-mamba-s", "zoo-mamba2"):
        cells.append(make_cell(model=model, method="dense", ratio=0.0))
        for ratio in (0.3, 0.5, 0.7):
            seeded = {"model": model, "method": "random", "ratio": ratio}
            cells += [make_cell(**seeded, seed=seed) for seed in (0, 1, 2)]
            cells.append(make_cell(model=model, method="magnitude", ratio=ratio))
            for targets in ("in_proj", "out_proj"):
                params = {"targets": targets}
                cells.append(make_cell(model=model, method="wanda", ratio=ratio, params=params))
    return cells


def _u(task: str, i: int) -> float:
    """A number in [0, 1) that depends on the document alone."""
    return random.Random(f"{task}{i}").random()
