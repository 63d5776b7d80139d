"""The Python interface, used as its docstring says."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pytest
import torch

import ssmbench
from ssmbench import api
from ssmbench.errors import CommandError, SsmbenchError, UnknownName
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
        (lambda m: ssmbench.compress(m, "magnitude", 0.5, per="x"), "found 'x'"),
        (lambda m: ssmbench.compress(m, "magnitude", 0.5, pear=1), "takes: targets, per"),
        (lambda m: ssmbench.evaluate(m, ["tinyword"]), "Did you mean 'tinyworld'"),
        (lambda m: ssmbench.evaluate(m, [{"suite": "latency", "x": 1}]), "suite latency: x"),
    ],
)
def test_a_mistake_gives_one_clear_error(model, call, expected):
    with pytest.raises(SsmbenchError, match=expected):
        call(model)


def test_the_dense_twin_of_a_timing_has_the_models_type():
    half = ssmbench.load("zoo-mamba2").bfloat16()
    assert api._dense(half).embedding.weight.dtype == torch.float32
    rounded = api._dense(half).layers[0].mixer.in_proj.weight
    assert torch.equal(rounded, rounded.bfloat16().float())


def test_errors_keep_their_kind(model):
    with pytest.raises(UnknownName):
        ssmbench.compress(model, "nothing", 0.5)
    with pytest.raises(CommandError):
        ssmbench.compress(model, "wanda", -0.1)
