"""The shipped models are small, read like any other, know TinyWorld, and suffer from pruning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ssmbench.models import checkpoint, source
from ssmbench.models.flops import forward_flops
from ssmbench.models.tokenizer import load_tokenizer
from ssmbench.suites import tinyworld as suite
from ssmbench.suites._context import Context
from ssmbench.surgery import calibration, compress
from ssmbench.surgery.context import MethodContext
from ssmbench.zoo import recipes, tasks, tinyworld

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CHANCE = sum(known.chance for known in tasks.KNOWN.values()) / len(tasks.KNOWN)


def accuracy(model: Decoder, name: str, scratch: Path, n: int) -> dict[str, float]:
    context = Context(
        model=model,
        tokenizer=load_tokenizer(f"zoo:{name}"),
        dense=lambda: model,
        data=None,
        limit=None,
        seed=0,
        batch_tokens=8192,
        scratch=scratch,
        report=lambda *_: None,
    )
    with torch.inference_mode():
        result = suite.run(context, suite.Params(n=n))
    rows = [row for row in result.metrics if row["metric"] == "acc"]
    assert {row["task"]: (row["chance"], row["best"]) for row in rows} == tasks.KNOWN
    assert all(row["n"] == n for row in rows)
    return {row["task"]: row["value"] for row in rows}


def mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def scores(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((source.zoo_folder(name) / "scores.json").read_text())
    return loaded


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_checkpoint_is_under_two_megabytes_and_described_by_its_recipe(name: str) -> None:
    folder = source.zoo_folder(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    assert source.describe(folder) == recipes.RECIPES[name].description
    assert source.recognise(folder) == recipes.RECIPES[name].description.family


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_recorded_scores_leave_chance_far_behind_but_not_all_at_the_top(name: str) -> None:
    recorded = scores(name)
    assert set(recorded["accuracy"]) == set(tasks.KNOWN)
    assert recorded["mean"] == pytest.approx(mean(recorded["accuracy"]))
    assert recorded["mean"] >= 0.75
    assert recorded["chance_mean"] == pytest.approx(CHANCE)
    assert CHANCE < 0.4
    assert min(recorded["accuracy"].values()) < 0.95
    assert recorded["tinyworld"] == tinyworld.VERSION


def test_the_three_sizes_of_mamba_cost_about_one_two_and_four() -> None:
    small, middle, large = (
        forward_flops(recipes.RECIPES[name].description, tokens=512)
        for name in ("mamba-s", "mamba-m", "mamba-l")
    )
    assert middle / small == pytest.approx(2, rel=0.15)
    assert large / small == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_dense_model_answers_as_its_record_says(name: str, tmp_path: Path) -> None:
    model = checkpoint.load(f"zoo:{name}").eval()
    found = accuracy(model, name, tmp_path, n=50)
    # Four standard errors of 300 documents at the least favourable accuracy.
    assert abs(mean(found) - scores(name)["mean"]) < 4 * 0.5 / 300**0.5


@pytest.mark.parametrize("name", ["mamba-l", "mamba2"])
def test_accuracy_falls_as_wanda_removes_more(name: str, tmp_path: Path) -> None:
    from ssmbench.plan.cells import Step

    windows = calibration.windows(
        "tinyworld",
        samples=16,
        length=128,
        seed=0,
        tokenizer=load_tokenizer(f"zoo:{name}"),
    )
    means = []
    for ratio in (0.0, 0.5, 0.75):
        model = checkpoint.load(f"zoo:{name}").eval()
        step = Step("wanda", 1, ratio, {})
        compress.apply(model, [step], MethodContext(seed=0, calibration=windows))
        means.append(mean(accuracy(model, name, tmp_path, n=50)))
    assert means[0] > means[1] > means[2] + 0.1
    assert means[0] > means[2] + 0.2


def test_the_documentation_shows_the_recorded_scores() -> None:
    text = (Path(__file__).parents[1] / "docs" / "zoo.md").read_text("utf-8")
    for name in recipes.RECIPES:
        recorded = scores(name)
        values = [recorded["mean"], *(recorded["accuracy"][task] for task in tasks.KNOWN)]
        (row,) = [line for line in text.splitlines() if line.startswith(f"| zoo-{name} |")][:1]
        assert row.endswith(" | " + " | ".join(f"{value:.3f}" for value in values) + " |")
