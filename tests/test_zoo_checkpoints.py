"""The shipped models are small, read like any other, know TinyWorld, and suffer from pruning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ssmbench.kernels.conv import causal_conv
from ssmbench.models import checkpoint, source
from ssmbench.models.attention import AttentionMixer, rotate
from ssmbench.models.flops import forward_flops
from ssmbench.models.mixers import SSDMixer
from ssmbench.models.tokenizer import load_tokenizer
from ssmbench.suites import tinyworld as suite
from ssmbench.suites._context import Context
from ssmbench.surgery import calibration, compress, coupling
from ssmbench.surgery.context import MethodContext
from ssmbench.zoo import recipes, start, tasks, tinyworld

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FOR_SURGERY = ["phi-mamba", "smol-mamba", "hybrid-llama", "gpt-neox"]
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
    assert min(recorded["accuracy"].values()) < 0.97
    assert recorded["tinyworld"] == tinyworld.VERSION


@pytest.mark.parametrize("name", FOR_SURGERY)
def test_every_unit_of_a_model_for_surgery_can_be_cut_to_half_and_quartered(name: str) -> None:
    """Units divide by four, so that 25 % and 50 % are exact and merging may take three of four."""
    description = recipes.RECIPES[name].description
    assert len(description.layers) % 4 == 0
    for layer in description.layers:
        assert layer.mixer is not None
        sizes = coupling.table(layer.mixer)
        assert sizes.length["g"] % 4 == 0
        assert sizes.length["p"] % 4 == 0
        assert sizes.length.get("n", 4) % 4 == 0


@pytest.mark.parametrize("name", ["phi-mamba", "smol-mamba"])
def test_a_fresh_discrete_model_forgets_next_to_nothing_at_any_word(name: str) -> None:
    model = start.fresh(recipes.RECIPES[name])
    mixer = model.layers[0].mixer
    assert isinstance(mixer, SSDMixer)
    with torch.no_grad():
        words = model.embedding(torch.arange(len(tinyworld.vocabulary())))
        projected = mixer.in_proj(model.layers[0].get_submodule("norm")(words))
    decay = torch.sigmoid(-projected[:, -mixer.sizes.n_heads :])
    assert decay.mean() > 0.99
    assert decay.min() > 0.95


def test_the_first_layer_of_a_fresh_hybrid_passes_each_group_on_one_word_later() -> None:
    model = start.fresh(recipes.RECIPES["hybrid-llama"])
    mixer = model.layers[0].mixer
    assert isinstance(mixer, SSDMixer)
    said = torch.zeros(1, 6, mixer.sizes.d_xbc)
    said[0, 0] = 1
    heard = causal_conv(said, mixer.conv1d.weight[:, 0], mixer.conv1d.bias, None)
    x = heard[0, :, : mixer.sizes.d_x].unflatten(-1, (mixer.sizes.n_groups, -1))
    assert torch.equal(x.argmax(0), torch.arange(4)[:, None].expand(-1, mixer.sizes.head_dim))
    assert torch.equal(x.sum(0), torch.ones_like(x[0]))


def test_the_first_layer_of_a_fresh_gpt_neox_looks_back_by_one_word_more_in_each_head() -> None:
    model = start.fresh(recipes.RECIPES["gpt-neox"])
    mixer = model.layers[0].mixer
    assert isinstance(mixer, AttentionMixer)
    n_heads, length = mixer.sizes.n_heads, 30
    biases = (
        p.bias.view(1, 1, n_heads, -1).expand(1, length, -1, -1)
        for p in (mixer.q_proj, mixer.k_proj)
    )
    q, k = (rotate(b, torch.arange(length)[None], mixer.sizes)[0] for b in biases)
    agreement = torch.einsum("hd,thd->ht", q[-1], k)
    assert (length - 1 - agreement.argmax(1)).tolist() == list(range(n_heads))


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


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("mamba-l", "ssm"),
        ("mamba2", "ssm"),
        ("smol-mamba", "ssm"),
        ("hybrid-llama", "all"),
        ("gpt-neox", "all"),
    ],
)
def test_accuracy_falls_as_wanda_removes_more(name: str, layers: str, tmp_path: Path) -> None:
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
        step = Step("wanda", 1, ratio, {"layers": layers})
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
