"""A made-up run that fills every figure, and what a drawn figure's texts and bytes are."""

from __future__ import annotations

import importlib
import random
from typing import TYPE_CHECKING, Any

from store_helpers import TASKS, acc_rows, finish, make_cell, make_suite, new_run, nll_rows

from ssmbench.plan.labels import default_params
from ssmbench.store.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.plan.cells import Cell
    from ssmbench.report._figure import Figure
    from ssmbench.report._results import Results
    from ssmbench.store.folder import RunFolder

MODULES = (
    "changes",
    "pareto",
    "radar",
    "targets",
    "flops_accuracy",
    "context",
    "criteria",
    "redundancy",
    "flow",
    "times",
    "speedups",
    "training_curves",
)
# Twelve and more, as many as one figure is to show.
METHODS = (
    ("random", {}, 0.9),
    ("magnitude", {}, 0.5),
    ("wanda", {"targets": "both"}, 0.3),
    ("wanda", {"targets": "in_proj"}, 0.2),
    ("wanda", {"targets": "out_proj"}, 0.25),
    ("state", {}, 0.15),
    ("head_dim", {}, 0.35),
    ("head", {}, 0.4),
    ("ssm_flap", {}, 0.45),
    ("merge", {}, 0.85),
    ("block", {}, 0.8),
    ("utrc", {}, 0.3),
    ("simba", {"criterion": "influence"}, 0.1),
    ("simba", {"criterion": "uniform"}, 0.6),
    ("simba", {"criterion": "random"}, 0.5),
    ("simba", {"criterion": "influence", "aggregate": "absmax"}, 0.12),
)
# What a dense model's input costs, in FLOPs.
SIZES = {"zoo-mamba-m": 2.02e6, "zoo-mamba-s": 1e6}
RATIOS = (0.25, 0.5)
LENGTHS = (128, 512, 2048)
CONTEXTS = (64, 256, 1024)


def full_run(
    path: Path, *, methods: Any = METHODS, others: Any = METHODS[-1:], n: int = 12
) -> RunFolder:
    """Make a run with all that figures are about.

    Args:
        path: of its folder.
        methods: of the first model; name, parameters, how much is lost at ratio 1.
        others: of the second model, which costs half; not even dense if None.
        n: documents of a task.
    """
    folder = new_run(path)
    made = Maker(folder, n)
    with Ledger.open(folder) as ledger:
        for model, chosen in zip(SIZES, (methods, others), strict=True):
            if chosen is None:
                continue
            made.add(ledger, make_cell(model=model, method="dense", ratio=0.0), loss=0.0)
            for method, params, loss in chosen:
                # Plans fill in every parameter.
                given = {**default_params(method), **params}
                for ratio in RATIOS:
                    for seed in (0, 1) if params.get("criterion") == "random" else (0,):
                        cell = make_cell(
                            model=model, method=method, ratio=ratio, params=given, seed=seed
                        )
                        made.add(ledger, cell, loss=loss)
    return folder


_SHARED: dict[str, Any] = {}


def shared_results(factory: Any) -> Results:
    """Give `full_run`'s results, made once for all test files of a process.

    Args:
        factory: pytest's `tmp_path_factory`.
    """
    from ssmbench.report._results import Results
    from ssmbench.store.read import tables

    if "results" not in _SHARED:
        _SHARED["results"] = Results(tables(full_run(factory.mktemp("figures") / "run")))
    results: Results = _SHARED["results"]
    return results


def shared_figures(factory: Any) -> dict[str, list[Figure]]:
    """Give the figures of `shared_results`."""
    if "figures" not in _SHARED:
        _SHARED["figures"] = build_figures(shared_results(factory))
    figures: dict[str, list[Figure]] = _SHARED["figures"]
    return figures


class Maker:
    """Finishes cells with results of every suite."""

    def __init__(self, folder: RunFolder, n: int) -> None:
        self._folder, self._n, self._done = folder, n, 0
        self._suites = [
            make_suite("few_shot"),
            make_suite("perplexity"),
            make_suite("latency", device="cpu"),
            make_suite("long_context"),
            make_suite("redundancy"),
            make_suite("information_flow"),
            make_suite("training"),
        ]

    def add(self, ledger: Ledger, cell: Cell, *, loss: float) -> None:
        keep = 1 - loss * cell.ratio - 0.01 * cell.seed
        tokens = cell.method in ("simba", "utrc")
        cost = SIZES.get(cell.model.name, 1e6) * (1 - cell.ratio * (1 if tokens else 0.3))
        size = 0.01 * (1 - 0.4 * cell.ratio)
        rows: list[dict[str, Any] | None] = [
            _accuracies(cell, keep, cost, self._n),
            _perplexity(cell, "wikitext", 1.2 + 1 - keep),
            {"latency": [_time(p, n, size, 0.01) for p in ("prefill", "decode") for n in LENGTHS]},
            _contexts(cell, keep),
            {"layers": [_layer("cosine", p, k, 0.9 - 0.1 * k) for p in _PLACES for k in range(4)]},
            {"layers": [_flow(cell, k, part) for k in range(4) for part in range(5)]},
        ]
        if not tokens:
            rows.append({"training": [_step(k, keep) for k in range(1, 6)]})
        if not tokens and cell.method not in ("dense", "random"):
            # As in the quickstart: what drops no tokens is not looked into.
            rows[3:6] = [None] * 3
        for suite, found in zip(self._suites, rows, strict=False):
            if found is None:
                continue
            self._done += 1
            attempt = f"a{self._done:05d}"
            finish(self._folder, ledger, cell, suite, found, attempt=attempt)


_PLACES = ("residual", "mixer", "state")


def _accuracies(cell: Cell, keep: float, cost: float, n: int) -> dict[str, Any]:
    draw = random.Random(f"{cell.model.name}{cell.method}")
    correct = {t: [int(draw.random() < 0.3 + 0.65 * keep) for _ in range(n)] for t in TASKS}
    rows = acc_rows(correct)
    rows["metrics"] += [
        {"task": t, "metric": m, "value": v, "n": n}
        for i, t in enumerate(TASKS)
        for m, v in (
            ("flops_all", cost * (1 + 0.1 * i)),
            ("flops_scored", cost),
            ("prompt_tokens", 100.0),
            ("answer_tokens", 2.0),
        )
    ]
    return rows


def _perplexity(cell: Cell, task: str, nats: float) -> dict[str, Any]:
    draw = random.Random(task)
    tokens = [100.0 + i for i in range(12)]
    rows = nll_rows([w * (nats + 0.2 * draw.random()) for w in tokens], tokens, task=task)
    rows["metrics"][0]["stderr"] = 0.02 * rows["metrics"][0]["value"]
    return rows


def _contexts(cell: Cell, keep: float) -> dict[str, Any]:
    rows: dict[str, Any] = {"metrics": [], "samples": []}
    for i, length in enumerate(CONTEXTS):
        found = _perplexity(cell, f"context_{length}", 3.0 - 0.2 * i * keep)
        rows = {key: rows[key] + found[key] for key in rows}
    return rows


def _time(phase: str, length: int, median: float, dense: float) -> dict[str, Any]:
    factor = length / LENGTHS[0]
    return {
        "device": "cpu",
        "phase": phase,
        "batch": 1,
        "length": length,
        "median_s": median * factor,
        "dense_median_s": dense * factor,
        "speedup": dense / median,
        "p10_s": median * factor * 0.95,
        "p90_s": median * factor * 1.1,
        "n": 3,
        "tokens_per_s": length / median,
        "peak_memory_bytes": None,
        "raw_s": [median * factor * f for f in (0.93, 1.0, 1.12)],
        "dense_raw_s": [dense * factor * f for f in (0.97, 1.0, 1.05)],
    }


def _layer(measure: str, place: str, layer: int, value: float | None) -> dict[str, Any]:
    reason = None if value is not None else "no token of this part is left"
    n = 0 if value is None else 10
    row = {"layer": layer, "measure": measure, "place": place, "value": value}
    return row | {"n": n, "reason": reason}


def _flow(cell: Cell, layer: int, part: int) -> dict[str, Any]:
    gone = cell.method == "simba" and cell.ratio == 0.5 and layer > 1 and part == 0
    value = None if gone else 10.0 ** (-8 + 1.5 * part - layer)
    return _layer("influence", f"{part / 5:.2g}-{(part + 1) / 5:.2g}", layer, value)


def _step(k: int, keep: float) -> dict[str, Any]:
    told = {"step": 10 * k, "loss": (2 - keep) / k, "learning_rate": 1e-3, "gradient_norm": 1.0}
    return told | {"tokens": 640 * k, "seconds": 0.5 * k}


def build_figures(results: Results) -> dict[str, list[Figure]]:
    """Give what each report file of figures gives, by the file's name."""
    return {
        name: importlib.import_module(f"ssmbench.report.{name}").build(results) for name in MODULES
    }


def records(figure: Figure) -> list[dict[str, Any]]:
    """Give a figure's numbers, line by line; what is missing is left out."""
    assert figure.data is not None
    return [
        {name: value for shown in row for name, value in shown.numbers.items()}
        for row in figure.data.rows
    ]


def naive_front(points: list[tuple[float, float]]) -> list[bool]:
    """Say which points nothing beats: more of the first number, less of the second."""

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    return [not any(beats(other, point) for other in points) for point in points]


def svg_of(figure: Figure) -> bytes:
    """Draw a figure as SVG."""
    from ssmbench.report import _draw

    return _draw.svg(figure).encode()


def texts_of(figure: Figure) -> tuple[list[tuple[str, float, Any]], tuple[float, float]]:
    """Draw a figure and give what is written: text, size in points, box in pixels; and its size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.text import Text

    found: dict[int, tuple[str, float, Any]] = {}

    class Reader(RendererAgg):  # type: ignore[misc]
        def draw_text(self, gc: Any, x: Any, y: Any, s: Any, prop: Any, *rest: Any, **more: Any):
            written = more.get("mtext")
            if written is not None:
                # Without the line to its point, of which the box says little.
                box = Text.get_window_extent(written, self)
                found[id(written)] = (written.get_text(), prop.get_size_in_points(), box)
            super().draw_text(gc, x, y, s, prop, *rest, **more)

    canvas = Canvas(figsize=figure.size, dpi=100)
    FigureCanvasAgg(canvas)
    assert figure.draw is not None
    figure.draw(canvas)
    width, height = canvas.bbox.width, canvas.bbox.height
    canvas.draw(Reader(int(width), int(height), 100))
    return list(found.values()), (width, height)
