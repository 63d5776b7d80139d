"""Unstructured methods on every family and kind of layer, and each one's arithmetic by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ssmbench import plugins
from ssmbench.errors import MethodError, NumericalError
from ssmbench.methods.magnitude import magnitude_keep
from ssmbench.methods.wanda import wanda_keep
from ssmbench.models import description as d
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest
from ssmbench.models.initialise import initialise
from ssmbench.plan.cells import Step
from ssmbench.surgery import axes, compress
from ssmbench.surgery.context import MethodContext
from ssmbench.surgery.projections import (
    keep_largest,
    keep_pattern,
    n_dropped,
    projections,
    zero_fraction,
)

METHODS = plugins.names("method")
FAMILIES = plugins.names("family")
UNSTRUCTURED = [m for m in METHODS if "targets" in plugins.load("method", m).Params.model_fields]
IN_MIXER = {
    d.SSD: ("mixer.in_proj", "mixer.out_proj"),
    d.SelectiveScan: ("mixer.in_proj", "mixer.out_proj"),
    d.Attention: ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj", "mixer.o_proj"),
}


def kinds(layer: d.Layer) -> dict[str, tuple[str, ...]]:
    """Name what a layer has, and the projections of each."""
    mixer = "attention" if isinstance(layer.mixer, d.Attention) else "ssm"
    found = {mixer: IN_MIXER[type(layer.mixer)]} if layer.mixer else {}
    return found | ({"mlp": ("mlp.fc1", "mlp.fc2")} if layer.mlp else {})


def places(family: str, layers: str) -> list[tuple[int, str]]:
    """Give (layer, path) of every projection that `layers` means, in forward order."""
    specs = plugins.load("family", family).tiny().layers
    return [
        (i, path)
        for i, spec in enumerate(specs)
        for kind, paths in kinds(spec).items()
        for path in paths
        if layers in ("all", kind)
    ]


CASES = [
    pytest.param(family, layers, id=f"{family}-{layers}")
    for family in FAMILIES
    for layers in ("ssm", "attention", "mlp", "all")
    if places(family, layers)
]


def tiny(family: str) -> Decoder:
    model = Decoder(plugins.load("family", family).tiny())
    initialise(model, seed=0)
    return model.eval().requires_grad_(False)


def context(seed: int = 0, **more) -> MethodContext:
    windows = torch.randint(0, 61, (4, 16), generator=torch.Generator().manual_seed(1))
    return MethodContext(seed=seed, calibration=windows, batch_tokens=32, **more)


def run(
    model: Decoder, name: str, ratio: float, *, given: MethodContext | None = None, **params
) -> float | None:
    module = plugins.load("method", name)
    full = module.Params(**params).model_dump()
    return compress.apply(model, (Step(name, module.VERSION, ratio, full),), given or context())


def weights(model: Decoder, family: str, layers: str) -> dict[str, torch.Tensor]:
    named = dict(model.named_parameters())
    names = [f"layers.{i}.{path}.weight" for i, path in places(family, layers)]
    return {name: named[name] for name in names}


def same_bits(a: Decoder, b: Decoder) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(m == n and torch.equal(x, y) for (m, x), (n, y) in pairs)


@pytest.mark.parametrize("name", METHODS)
def test_the_contract_is_kept(name):
    module = plugins.load("method", name)
    assert module.__doc__
    assert module.SOURCE
    assert module.VERSION >= 1
    assert {"calibration", "seed"} >= module.needs(module.Params())
    assert module.Params.model_config["frozen"]
    assert module.Params.model_config["extra"] == "forbid"


def test_methods_validate_parameters_without_torch():
    code = (
        "import sys; from ssmbench import plugins\n"
        "for n in plugins.names('method'):\n"
        "    m = plugins.load('method', n); m.needs(m.Params())\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("family", "layers"), CASES)
@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_ratio_zero_is_bit_identical_to_dense(name, family, layers):
    model = tiny(family)
    assert run(model, name, 0.0, layers=layers) == 0
    assert same_bits(model, tiny(family))


@pytest.mark.parametrize(("family", "layers"), CASES)
@pytest.mark.parametrize("name", UNSTRUCTURED)
@pytest.mark.parametrize("ratio", [0.25, 0.9])
def test_the_asked_share_is_removed_and_nothing_else_is_touched(name, family, layers, ratio):
    model, dense = tiny(family), tiny(family)
    achieved = run(model, name, ratio, layers=layers)
    pruned = weights(model, family, layers)
    zeros = sum(int((w == 0).sum()) for w in pruned.values())
    assert achieved == zeros / sum(w.numel() for w in pruned.values())
    # One input of the narrowest projection is the finest step that a row-wise method can take.
    assert abs(achieved - ratio) <= 1 / min(w.shape[1] for w in pruned.values())
    touched = {
        n
        for (n, p), q in zip(model.named_parameters(), dense.parameters(), strict=True)
        if not torch.equal(p, q)
    }
    assert touched == set(pruned)


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_the_same_seed_gives_the_same_bits(name):
    first, second = tiny("mamba2"), tiny("mamba2")
    run(first, name, 0.5, given=context(3))
    run(second, name, 0.5, given=context(3))
    assert same_bits(first, second)


@pytest.mark.parametrize(("family", "layers"), CASES)
@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_targets_limit_what_is_pruned(name, family, layers):
    model = tiny(family)
    run(model, name, 0.5, targets="out_proj", layers=layers)
    ends = ("out_proj.weight", "o_proj.weight", "fc2.weight")
    for parameter, weight in weights(model, family, layers).items():
        assert bool((weight == 0).any()) == parameter.endswith(ends)


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_layers_that_a_model_lacks_are_named(name):
    with pytest.raises(MethodError, match="gpt_neox: found no layer for `layers: ssm`; this model"):
        run(tiny("gpt_neox"), name, 0.5)
    with pytest.raises(MethodError, match="this model has ssm"):
        run(tiny("mamba"), name, 0.5, layers="mlp")


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_a_layer_whose_mixer_was_removed_is_passed_over(name):
    model, before = tiny("mamba2"), tiny("mamba2")
    axes.remove_mixer(model, 0)
    run(model, name, 0.5)
    assert [p.layer for p in projections(model, "both")] == [1, 1]
    assert zero_fraction(model, "both") == pytest.approx(0.5)
    axes.remove_mixer(model, 1)
    with pytest.raises(MethodError, match="this model has none to prune"):
        run(model, name, 0.5)
    assert torch.equal(model.embedding.weight, before.embedding.weight)


@pytest.mark.parametrize("params", [{}, {"sequential": False}])
def test_wanda_without_calibration_is_refused(params):
    module = plugins.load("method", "wanda")
    empty = MethodContext(seed=0, calibration=None)
    with pytest.raises(MethodError, match="found no calibration text"):
        module.compress(tiny("mamba"), ratio=0.5, params=module.Params(**params), context=empty)


@pytest.mark.parametrize(("family", "layers"), CASES)
@pytest.mark.parametrize("ratio", [0.29, 0.5])
def test_wanda_zeroes_the_same_number_in_every_row(family, layers, ratio):
    model = tiny(family)
    run(model, "wanda", ratio, layers=layers)
    for weight in weights(model, family, layers).values():
        assert bool(((weight == 0).sum(1) == math.floor(weight.shape[1] * ratio)).all())


@pytest.mark.parametrize(("family", "layers"), CASES)
@pytest.mark.parametrize("name", ["wanda", "magnitude"])
def test_a_pattern_keeps_n_of_every_m(name, family, layers):
    model = tiny(family)
    m = math.gcd(*(w.shape[1] for w in weights(model, family, layers).values()))
    run(model, name, 1 - 1 / m, layers=layers, pattern=f"1:{m}")
    for weight in weights(model, family, layers).values():
        kept = (weight != 0).unflatten(1, (-1, m)).sum(-1)
        assert bool((kept == 1).all())


def test_a_pattern_by_hand():
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0, 5.0, 5.0, 6.0]])
    expected = [[True, False, True, False, True, False, False, True]]
    assert keep_pattern(scores, "2:4").tolist() == expected
    assert wanda_keep(scores, torch.ones(8), 0.5, pattern="2:4").tolist() == expected
    assert magnitude_keep(-scores, 0.5, per="matrix", pattern="2:4").tolist() == expected
    # The norm decides as well: |w| · ‖x‖ = [4, 10, 3, 2].
    norm = torch.tensor([1.0, 10.0, 1.0, 1.0])
    assert wanda_keep(scores[:, :4], norm, 0.5, pattern="1:2").tolist() == [
        [False, True, True, False]
    ]


@pytest.mark.parametrize("name", ["wanda", "magnitude"])
def test_a_pattern_that_cannot_be_had_is_refused_and_nothing_is_pruned(name):
    model = tiny("mamba2")
    with pytest.raises(MethodError, match=r"pattern 2:4: found ratio 0\.25; expected 0\.5"):
        run(model, name, 0.25, pattern="2:4")
    with pytest.raises(MethodError, match=r"in_proj: found 24 inputs; expected a multiple of 7"):
        run(model, name, 1 - 2 / 7, pattern="2:7")
    assert same_bits(model, tiny("mamba2"))
    for wrong in ("4:2", "2:2", "0:4", "2/4", "2:4 "):
        with pytest.raises(ValidationError, match="expected N:M"):
            plugins.load("method", name).Params(pattern=wrong)


def test_wanda_by_hand():
    weight = torch.tensor([[1.0, -4.0, 2.0, 0.5], [3.0, 1.0, -1.0, 2.0]])
    norm = torch.tensor([1.0, 0.1, 1.0, 10.0])
    # |w|·‖x‖: [1, .4, 2, 5] and [3, .1, 1, 20]; half of each row goes.
    expected = torch.tensor([[False, False, True, True], [True, False, False, True]])
    assert torch.equal(wanda_keep(weight, norm, 0.5), expected)


def test_wanda_refuses_norms_that_are_not_finite():
    with pytest.raises(NumericalError, match="not finite"):
        wanda_keep(torch.ones(2, 2), torch.tensor([1.0, float("inf")]), 0.5)


def test_magnitude_by_hand():
    weight = torch.tensor([[1.0, -4.0], [0.5, 3.0]])
    matrix = torch.tensor([[False, True], [False, True]])
    assert torch.equal(magnitude_keep(weight, 0.5, per="matrix"), matrix)
    weight = torch.tensor([[5.0, -4.0], [0.5, 3.0]])
    row = torch.tensor([[True, False], [False, True]])
    assert torch.equal(magnitude_keep(weight, 0.5, per="row"), row)


def naive_norms(
    model: Decoder, where: list[tuple[int, str]]
) -> dict[tuple[int, str], torch.Tensor]:
    """Recompute what enters each projection in whole forward passes, one window at a time."""
    seen: dict[tuple[int, str], list[torch.Tensor]] = {place: [] for place in where}
    hooks = []
    for (i, path), rows in seen.items():
        hook = lambda _m, x, rows=rows: rows.append(x[0].clone())  # noqa: E731
        module = model.get_submodule(f"layers.{i}.{path}")
        hooks.append(module.register_forward_pre_hook(hook))
    for window in context().windows():
        model.hidden(Forest.batch(window[None]))
    for hook in hooks:
        hook.remove()
    return {k: torch.cat(v).double().square().sum(0).sqrt().float() for k, v in seen.items()}


@pytest.mark.parametrize(("family", "layers"), CASES)
def test_sequential_wanda_sees_the_layers_before_it_pruned(family, layers):
    """Its twin: take a layer's norms by whole forward passes, prune it, go on to the next."""
    model, twin = tiny(family), tiny(family)
    run(model, "wanda", 0.5, layers=layers)
    for layer in range(len(twin.layers)):
        here = [(i, path) for i, path in places(family, layers) if i == layer]
        for (_, path), norm in naive_norms(twin, here).items():
            weight = twin.layers[layer].get_submodule(path).weight
            weight.masked_fill_(~wanda_keep(weight, norm, 0.5), 0)
    assert same_bits(model, twin)


def test_sequential_and_one_pass_wanda_differ_after_the_first_layer():
    one, two = tiny("mamba2"), tiny("mamba2")
    run(one, "wanda", 0.5)
    run(two, "wanda", 0.5, sequential=False)
    equal = [
        torch.equal(a.mixer.in_proj.weight, b.mixer.in_proj.weight)
        for a, b in zip(one.layers, two.layers, strict=True)
    ]
    assert equal == [True, False]


@pytest.mark.parametrize(("family", "layers"), CASES)
def test_one_pass_wanda_uses_the_norms_of_the_dense_model(family, layers):
    model, twin = tiny(family), tiny(family)
    run(model, "wanda", 0.5, layers=layers, sequential=False)
    for (i, path), norm in naive_norms(twin, places(family, layers)).items():
        weight = twin.layers[i].get_submodule(path).weight
        weight.masked_fill_(~wanda_keep(weight, norm, 0.5), 0)
    assert same_bits(model, twin)


def test_one_pass_norms_are_shared_by_ratios_and_targets():
    kept, calls = {}, []

    def share(key, compute):
        calls.append(name := tuple(sorted(key.items())))
        if name not in kept:
            kept[name] = compute()
        return kept[name]

    for ratio, targets in ((0.25, "in_proj"), (0.5, "out_proj"), (0.5, "both")):
        model, alone = tiny("mamba2"), tiny("mamba2")
        asked = {"targets": targets, "sequential": False}
        run(model, "wanda", ratio, given=context(share=share), **asked)
        run(alone, "wanda", ratio, **asked)
        assert same_bits(model, alone)
    assert (len(calls), len(kept)) == (3, 1)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    ratio=st.floats(0, 0.999),
    more=st.floats(0, 0.999),
    seed=st.integers(0, 1000),
)
def test_keeping_is_exact_and_monotone(n, ratio, more, seed):
    low, high = sorted((ratio, more))
    # Few distinct scores, so that ties are the rule.
    scores = torch.randint(0, 5, (3, n), generator=torch.Generator().manual_seed(seed)).float()
    kept_low, kept_high = keep_largest(scores, low), keep_largest(scores, high)
    assert bool((kept_low.sum(-1) == n - n_dropped(n, low)).all())
    assert bool((kept_high <= kept_low).all())


def test_ties_keep_the_lower_index():
    assert keep_largest(torch.ones(1, 4), 0.5).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(("n", "ratio", "expected"), [(100, 0.29, 29), (10, 0.3, 3), (7, 0.5, 3)])
def test_the_number_dropped_is_the_floor_in_exact_arithmetic(n, ratio, expected):
    assert n_dropped(n, ratio) == expected
