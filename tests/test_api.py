"""The Python interface, used as its docstring says."""

from __future__ import annotations

import copy
import subprocess
import sys

import polars as pl
import pytest
import torch

import ssmbench
from ssmbench import api
from ssmbench.errors import CheckpointError, CommandError, SsmbenchError, UnknownName
from ssmbench.surgery.projections import zero_fraction


def test_importing_the_package_imports_neither_torch_nor_ray():
    code = "import sys, ssmbench; assert not {'torch', 'ray', 'polars'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def model():
    return ssmbench.load("zoo-mamba-s")


def test_a_model_gives_float32_logits(model):
    logits = model(torch.tensor([[1, 2, 3]]))
    assert logits.dtype == torch.float32
    assert logits.shape == (1, 3, model.description.vocab_size)


def test_compress_leaves_the_given_model_alone(model):
    pruned = ssmbench.compress(model, "wanda", 0.5, samples=4, length=32)
    assert zero_fraction(pruned, "both") == pytest.approx(0.5, abs=0.02)
    assert zero_fraction(model, "both") == 0


def test_a_chain_is_its_steps_one_after_another(model):
    once = ssmbench.compress(model, "state", 0.5, score="magnitude")
    twice = ssmbench.compress(once, "magnitude", 0.25)
    chained = ssmbench.compress(
        model, "state+magnitude", 0.25, state={"ratio": 0.5, "score": "magnitude"}
    )
    assert chained.description == twice.description
    assert chained.description.layers[0].mixer.d_state < model.description.layers[0].mixer.d_state
    expected = twice.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in chained.state_dict().items())


def test_nothing_removed_is_the_model_itself(model):
    same = ssmbench.compress(model, "state+magnitude", 0)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in same.state_dict().items())


def test_a_saved_model_is_loaded_again_and_measured(model, tmp_path):
    pruned = ssmbench.compress(model, "state", 0.5, score="magnitude")
    ssmbench.save(pruned, tmp_path / "pruned")
    again = ssmbench.load(str(tmp_path / "pruned"))
    ids = torch.arange(30)[None]
    assert torch.equal(again(ids), pruned(ids))
    windows = [{"suite": "perplexity", "data": "tinyworld", "length": 64}]
    found, expected = (ssmbench.evaluate(m, windows, limit=2)["metrics"] for m in (again, pruned))
    assert found.equals(expected)
    with pytest.raises(CommandError, match="not empty; expected a new folder"):
        ssmbench.save(pruned, tmp_path / "pruned")


def test_what_a_layout_cannot_say_leaves_no_folder(model, tmp_path):
    pruned = ssmbench.compress(model, "head_dim", 0.9, score="magnitude")
    with pytest.raises(CheckpointError, match=r"found mixers of 7 channels.*--layout ssmbench"):
        ssmbench.save(pruned, tmp_path / "odd", layout="transformers")
    assert not any(tmp_path.iterdir())


def test_functions_stay_functions_after_their_modules_are_imported(model):
    for _ in range(2):
        windows = [{"suite": "perplexity", "data": "tinyworld", "length": 64}]
        assert ssmbench.evaluate(model, windows, limit=2)["metrics"].height == 1
    assert all(callable(getattr(ssmbench, name)) for name in ssmbench.__all__)


def test_evaluate_gives_frames_and_pruning_shows_in_them(model):
    dense = ssmbench.evaluate(model, ["tinyworld"], limit=20)["metrics"]
    ruined = ssmbench.compress(model, "random", 0.9)
    after = ssmbench.evaluate(ruined, ["tinyworld"], limit=20)["metrics"]
    accuracy = pl.col("metric") == "acc"
    assert dense.filter(accuracy)["value"].mean() > after.filter(accuracy)["value"].mean() + 0.2


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda m: ssmbench.compress(m, "wandaa", 0.5), "Did you mean 'wanda'"),
        (lambda m: ssmbench.compress(m, "wanda", 1.0), "ratio: found 1.0"),
        (lambda m: ssmbench.compress(m, "wanda", True), "ratio: found True"),
        (lambda m: ssmbench.compress(m, "wanda"), "ratio: found none for 'wanda'"),
        (lambda m: ssmbench.compress(m, "dense", 0.5), "found 0.5 for 'dense'"),
        (lambda m: ssmbench.compress(m, "dense+wanda", 0.5), "'dense' removes nothing"),
        (lambda m: ssmbench.compress(m, "wanda+wanda", 0.5), "found 'wanda' twice"),
        (lambda m: ssmbench.compress(m, "state+wanda", 0.5, sequential=True), "names of its steps"),
        (
            lambda m: ssmbench.compress(m, "state+wanda", 0.5, wanda={"ratio": 0.2}),
            "'wanda', sets a ratio of its own",
        ),
        (lambda m: ssmbench.compress(m, "random", 0.5, unit="state", layers="all"), "^method rand"),
        (lambda m: ssmbench.compress(m, "magnitude", 0.5, per="x"), "found 'x'"),
        (lambda m: ssmbench.compress(m, "magnitude", 0.5, pear=1), "takes: targets, layers, per"),
        (lambda m: ssmbench.evaluate(m, ["tinyword"]), "Did you mean 'tinyworld'"),
        (lambda m: ssmbench.evaluate(m, [{"suite": "latency", "x": 1}]), "suite latency: x"),
    ],
)
def test_a_mistake_gives_one_clear_error(model, call, expected):
    with pytest.raises(SsmbenchError, match=expected):
        call(model)


def test_the_dense_twin_of_a_timing_has_the_models_type():
    half = ssmbench.load("zoo-mamba2", dtype="float16")
    dense = api._dense(half)
    assert (dense.dtype, dense.compute_dtype) == (torch.float16, torch.float32)
    ids = torch.arange(9)[None]
    assert torch.equal(dense(ids), half(ids))


def test_rows_say_what_was_computed_in():
    half = ssmbench.load("zoo-mamba2", dtype="float16")
    suite = {"suite": "perplexity", "data": "tinyworld", "length": 64}
    whole = copy.deepcopy(half).to(torch.bfloat16)
    for model, expected in ((half, "float32"), (whole, "bfloat16")):
        rows = ssmbench.evaluate(model, [suite], limit=1)["metrics"]
        assert set(rows["compute_dtype"]) == {expected}


def test_errors_keep_their_kind(model):
    with pytest.raises(UnknownName):
        ssmbench.compress(model, "nothing", 0.5)
    with pytest.raises(CommandError):
        ssmbench.compress(model, "wanda", -0.1)
