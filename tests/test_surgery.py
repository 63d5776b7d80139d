"""Every structured method on every family that has its unit, at every ratio that leaves some."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import pytest
import torch
from surgery_helpers import (
    MODELS,
    assert_same,
    build,
    context,
    equalise,
    tokens,
)

from ssmbench import plugins
from ssmbench.errors import MethodError
from ssmbench.methods.merge import merged_into_one
from ssmbench.models import description as d
from ssmbench.models import flops
from ssmbench.models.forest import Forest
from ssmbench.surgery import axes, units
from ssmbench.surgery.coupling import table

METHODS = {
    "state": {},
    "head_dim": {},
    "head": {},
    "head one": {"unit": "head"},
    "head group": {"unit": "group"},
    "head attention": {"layers": "attention"},
    "head all": {"layers": "all"},
    "merge": {},
    "merge attention": {"layers": "attention"},
    "merge all": {"layers": "all"},
    "random state": {"unit": "state"},
    "random head_dim": {"unit": "head_dim"},
    "random head": {"unit": "head", "layers": "all"},
    "random block": {"unit": "block"},
}
SCORED = ["state", "head_dim", "head", "head all"]


class Case(NamedTuple):
    """A method on a model; how many units go of how many, in each place, by hand."""

    method: str
    model: str
    ratio: float
    counts: tuple[tuple[int, int], ...] | None
    """(gone, all) of each place that chooses; None where the model has no such unit at all."""

    @property
    def possible(self) -> bool:
        return self.counts is not None and all(0 < gone < n for gone, n in self.counts)


def unit_lengths(method: str, sizes: d.Mixer) -> list[int]:
    """Count the units that are chosen among: one number for each place that chooses."""
    if isinstance(sizes, d.SelectiveScan):
        mamba = {"state": sizes.d_state, "head_dim": sizes.d_inner}
        return [mamba[method]] if method in mamba else []
    attention = isinstance(sizes, d.Attention)
    groups = sizes.n_kv_heads if attention else sizes.n_groups
    per_group = sizes.n_heads // groups
    shares_x = attention or sizes.shared == "xb"
    match method:
        case "state":
            return [] if attention else [sizes.d_state] * groups
        case "head_dim":
            return [] if attention else [sizes.head_dim] * (groups if shares_x else sizes.n_heads)
        case "head one":
            return [per_group] * groups
        case "head group":
            return [groups]
        case "merge":
            return [groups if groups > 1 else per_group]
    whole_groups = shares_x or (per_group == 1 and groups > 1)
    return [groups] if whole_groups else [per_group] * groups


def count(method: str, model: str, ratio: float) -> tuple[tuple[int, int], ...] | None:
    name, _, variant = method.partition(" ")
    which = METHODS[method].get("layers", "ssm")
    mixers = [
        layer.mixer
        for layer in MODELS[model].layers
        if layer.mixer is not None
        and (which == "all" or isinstance(layer.mixer, d.Attention) == (which == "attention"))
    ]
    if not mixers:
        return None
    if variant == "block":
        return ((math.floor(len(mixers) * ratio), len(mixers)),)
    unit = variant if name == "random" else method if variant in ("one", "group") else name
    lengths = [unit_lengths(unit, sizes) for sizes in mixers]
    if not all(lengths):
        return None
    if name == "merge":
        size = round(1 / (1 - ratio))
        even = all(n % size == 0 for places in lengths for n in places)
        return tuple((n - n // size if even else 0, n) for places in lengths for n in places)
    return tuple((math.floor(n * ratio), n) for places in lengths for n in places)


def tells(method: str, model: str) -> bool:
    """Say whether a variant differs on a model: `all` is `ssm` where there is no attention."""
    attention = [isinstance(layer.mixer, d.Attention) for layer in MODELS[model].layers]
    return METHODS[method].get("layers") != "all" or any(attention)


CASES = [
    Case(method, model, ratio, count(method, model, ratio))
    for method in METHODS
    for model in MODELS
    if tells(method, model)
    for ratio in ((0.5, 0.75) if method.startswith("merge") else (0.25, 0.5))
]
POSSIBLE = [case for case in CASES if case.possible]
REFUSED = [case for case in CASES if not case.possible]
CUT = [case for case in POSSIBLE if not case.method.startswith("merge")]
MERGED = [case for case in POSSIBLE if case.method.startswith("merge")]


def label(case: Case) -> str:
    return f"{case.method}-{case.model}-{case.ratio}".replace(" ", "_")


def run(model, method: str, ratio: float, *, seed: int = 0, score: str | None = None, **changes):
    name = method.partition(" ")[0]
    module = plugins.load("method", name)
    extra = {} if score is None else {"score": score}
    params = module.Params(**METHODS[method], **extra)
    given = context(model.description, seed=seed, **changes)
    return module.compress(model, ratio=ratio, params=params, context=given)


@functools.cache
def compressed(case: Case):
    model = build(MODELS[case.model])
    achieved = run(model, case.method, case.ratio)
    return model, achieved


@pytest.mark.parametrize("case", CUT, ids=label)
def test_take_equals_mask(case):
    cut, _ = compressed(case)
    masked = build(MODELS[case.model])
    run(
        masked,
        case.method,
        case.ratio,
        remove=axes.mask,
        remove_mixer=axes.mask_mixer,
    )
    ids = tokens(2, 14)
    assert cut.description != masked.description == MODELS[case.model]
    assert_same(cut(ids), masked(ids))
    assert not torch.allclose(cut(ids), build(MODELS[case.model])(ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", MERGED, ids=label)
def test_merging_equals_giving_each_head_the_mean(case):
    """Hence also: merging heads that are equal already loses nothing."""
    merged, _ = compressed(case)
    twin = build(MODELS[case.model])
    size = merged_into_one(case.ratio)
    layers = METHODS[case.method].get("layers", "ssm")
    for i, sizes in units.mixers(twin, layers).items():
        equalise(twin, i, "g" if table(sizes).length["g"] > 1 else "r", size)
    ids = tokens(2, 14)
    expected = twin(ids)
    assert_same(merged(ids), expected)
    run(twin, case.method, case.ratio)
    assert_same(twin(ids), expected)


@pytest.mark.parametrize("case", POSSIBLE, ids=label)
def test_the_share_removed_is_exact(case):
    model, achieved = compressed(case)
    gone = sum(gone for gone, _ in case.counts)
    assert achieved == pytest.approx(gone / sum(n for _, n in case.counts), abs=1e-12)
    assert flops.parameters(model.description).model == sum(p.numel() for p in model.parameters())
    assert [block.spec for block in model.layers] == list(model.description.layers)


@pytest.mark.parametrize("case", POSSIBLE, ids=label)
def test_continuing_from_the_state_equals_one_pass(case):
    model, _ = compressed(case)
    ids = tokens(2, 14)
    state, outputs = None, []
    for part in ids.split([6, 1, 1, 6], dim=1):
        hidden, state = model.hidden(Forest.batch(part), state)
        outputs.append(model.logits(hidden).view(2, part.shape[1], -1))
    # Two layers of float32: a continuation regroups the sums of a chunk.
    assert_same(torch.cat(outputs, 1), model(ids), within=1e-4)


@pytest.mark.parametrize("case", REFUSED, ids=label)
def test_what_cannot_be_done_is_refused_with_a_sentence(case):
    model = build(MODELS[case.model])
    with pytest.raises(MethodError) as caught:
        run(model, case.method, case.ratio)
    message = str(caught.value)
    assert MODELS[case.model].family in message
    if case.counts is None:
        assert "found" in message
        assert "expected" in message
    for ours, dense in zip(model.parameters(), build(MODELS[case.model]).parameters(), strict=True):
        assert torch.equal(ours, dense)


@pytest.mark.parametrize(
    ("method", "model"), dict.fromkeys((c.method, c.model) for c in CASES if c.counts)
)
def test_ratio_zero_changes_no_bit(method, model):
    dense = build(MODELS[model])
    model = build(MODELS[model])
    assert run(model, method, 0.0) == 0
    assert model.description == dense.description
    for ours, theirs in zip(model.parameters(), dense.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("case", [c for c in POSSIBLE if c.ratio == 0.5], ids=label)
def test_the_same_seed_gives_the_same_bits(case):
    first, _ = compressed(case)
    second = build(MODELS[case.model])
    run(second, case.method, case.ratio)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


ZEROED = [(case, s) for case in CUT if case.method in SCORED for s in ("fisher", "magnitude")]


@pytest.mark.parametrize(
    ("case", "score"), ZEROED, ids=[f"{label(case)}-{score}" for case, score in ZEROED]
)
def test_removing_units_that_are_zero_loses_nothing(case, score):
    model = build(MODELS[case.model])
    run(model, case.method, case.ratio, score="random", remove=axes.mask)
    ids = tokens(2, 14)
    before = model(ids)
    run(model, case.method, case.ratio, score=score)
    assert model.description != MODELS[case.model]
    assert_same(model(ids), before)


# What of an SSM mixer a method may change.
SHARED = {"in_proj.weight", "in_proj.bias", "conv1d.weight", "conv1d.bias"}
DECLARED = {
    "state": SHARED,
    "head_dim": SHARED | {"z_bias", "norm.weight", "out_proj.weight"},
    "merge": SHARED,
}
DECLARED_MAMBA = {"x_proj.weight", "A_log"}


@pytest.mark.parametrize("case", POSSIBLE, ids=label)
def test_parameters_outside_the_declared_set_are_untouched(case):
    model, _ = compressed(case)
    before = dict(build(MODELS[case.model]).named_parameters())
    which = METHODS[case.method].get("layers", "ssm")
    touched = units.mixers(build(MODELS[case.model]), which)
    after = dict(model.named_parameters())
    changed = {
        name
        for name, parameter in before.items()
        if name not in after or not torch.equal(parameter, after[name])
    }
    name, _, variant = case.method.partition(" ")
    unit = variant if name == "random" else name
    for path in changed:
        _, index, inside, *rest = path.split(".")
        assert int(index) in touched
        assert inside == "mixer" or (unit == "block" and inside == "norm")
        sizes, parameter = touched[int(index)], ".".join(rest)
        if isinstance(sizes, d.SelectiveScan) and unit == "state":
            assert parameter in DECLARED_MAMBA
        elif isinstance(sizes, d.SSD) and (unit != "merge" or sizes.n_groups > 1):
            assert parameter in DECLARED.get(unit, {parameter})


@pytest.mark.parametrize("model", ["mamba2", "grouped", "phi_mamba", "smol_mamba", "hybrid"])
def test_state_pruning_leaves_z_x_and_dt_alone(model):
    cut, dense = build(MODELS[model]), build(MODELS[model])
    run(cut, "state", 0.5)
    sizes = MODELS[model].layers[0].mixer
    ours, theirs = (m.layers[0].mixer.in_proj.weight for m in (cut, dense))
    before_b = sizes.d_inner + sizes.d_x
    assert torch.equal(ours[:before_b], theirs[:before_b])
    assert torch.equal(ours[-sizes.n_heads :], theirs[-sizes.n_heads :])
    taps, before = (m.layers[0].mixer.conv1d.weight for m in (cut, dense))
    assert torch.equal(taps[: sizes.d_x], before[: sizes.d_x])


@pytest.mark.parametrize("model", ["mamba2", "grouped", "phi_mamba", "smol_mamba", "hybrid"])
def test_head_dim_pruning_leaves_b_c_and_dt_alone(model):
    cut, dense = build(MODELS[model]), build(MODELS[model])
    run(cut, "head_dim", 0.5)
    after, before = (m.description.layers[0].mixer for m in (cut, dense))
    ours = cut.layers[0].mixer.in_proj.weight[after.d_inner + after.d_x :]
    theirs = dense.layers[0].mixer.in_proj.weight[before.d_inner + before.d_x :]
    assert torch.equal(ours, theirs)
