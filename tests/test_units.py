"""Units: which go, what is refused, and any shape at all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_helpers import (
    LAYER,
    MLP,
    MODELS,
    RMS,
    assert_same,
    build,
    context,
    equalise,
    of,
    tokens,
)

from ssmbench import plugins
from ssmbench.errors import MethodError
from ssmbench.methods.merge import merged_into_one
from ssmbench.methods.random import Params as RandomParams
from ssmbench.models import description as d
from ssmbench.models import flops
from ssmbench.surgery import axes, units
from ssmbench.surgery.coupling import table
from ssmbench.surgery.projections import n_dropped


def run(model, method: str, ratio: float, *, seed: int = 0, remove=axes.take, **params):
    module = plugins.load("method", method)
    given = context(model.description, seed=seed, remove=remove)
    return module.compress(model, ratio=ratio, params=module.Params(**params), context=given)


def test_a_head_goes_with_what_is_its_own():
    sizes = d.SSD(4, 2, 3, n_groups=4, norm_groups=4)
    model, dense = build(of("smol", d.Layer(sizes, RMS))), build(of("smol", d.Layer(sizes, RMS)))
    with torch.no_grad():
        # Its rows of z (2 of 8), x (2 of 8), B and C (3 of 12 each) and dt (1 of 4).
        rows = [4, 5, 12, 13, *(16 + i for i in (6, 7, 8)), *(28 + i for i in (6, 7, 8)), 42]
        for m in (model, dense):
            m.layers[0].mixer.in_proj.weight[rows] *= 1e-4
            m.layers[0].mixer.out_proj.weight[:, 4:6] *= 1e-4
    run(model, "head", 0.25, score="magnitude")
    rest = [i for i in range(44) if i not in rows]
    ours, theirs = model.layers[0].mixer, dense.layers[0].mixer
    assert torch.equal(ours.in_proj.weight, theirs.in_proj.weight[rest])
    assert torch.equal(ours.out_proj.weight, theirs.out_proj.weight[:, [0, 1, 2, 3, 6, 7]])
    assert torch.equal(ours.D, theirs.D[[0, 1, 3]])


def test_the_lowest_go_and_ties_keep_the_lower_index():
    scores = torch.tensor([[3.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert units.kept_indices(scores, 0.25).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert units.kept_indices(scores, 0.5).tolist() == [[0, 2], [0, 1]]


def test_random_states_are_those_of_the_state_method_with_random_scores():
    first, second = build(MODELS["hybrid"]), build(MODELS["hybrid"])
    run(first, "random", 0.5, seed=4, unit="state")
    run(second, "state", 0.5, seed=4, score="random")
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_another_seed_chooses_otherwise():
    first, second = build(MODELS["grouped"]), build(MODELS["grouped"])
    run(first, "random", 0.5, seed=1, unit="head_dim")
    run(second, "random", 0.5, seed=2, unit="head_dim")
    assert not torch.equal(first.layers[0].mixer.norm.weight, second.layers[0].mixer.norm.weight)


def test_random_blocks_are_spread_by_the_seed():
    layer = d.Layer(d.SSD(2, 2, 2), RMS, MLP)
    gone = set()
    for seed in range(6):
        model = build(of("mamba2", *[layer] * 4))
        assert run(model, "random", 0.5, seed=seed, unit="block") == 0.5
        gone.add(tuple(i for i, s in enumerate(model.description.layers) if s.mixer is None))
    assert all(len(layers) == 2 for layers in gone)
    assert len(gone) > 1


@pytest.mark.parametrize(
    ("method", "params", "model", "ratio", "message"),
    [
        ("state", {}, "gpt_neox", 0.5, "gpt_neox: found no SSM mixer; expected at least one"),
        ("head", {"layers": "attention"}, "mamba", 0.5, "mamba: found no attention"),
        ("head", {}, "mamba", 0.5, "mamba: layer 0: found a mixer without heads .*`head_dim` or"),
        ("merge", {}, "mamba", 0.5, "mamba: layer 0: found a mixer without heads"),
        (
            "head",
            {"unit": "head"},
            "phi_mamba",
            0.5,
            "found 1 heads in a group; .* at least 2",
        ),
        (
            *("head", {"layers": "attention"}, "gpt_neox", 0.25),
            "gpt_neox: layer 0: removes 0 of 3 heads at ratio 0.25; the smallest ratio that "
            "removes one is 0.334",
        ),
        ("head", {}, "phi_mamba", 1 - 1e-11, "phi_mamba: layer 0: keeps 0 of 4 heads"),
        ("merge", {}, "phi_mamba", 0.3, "= 1.429; expected a whole number"),
        ("merge", {}, "phi_mamba", 0.0004, "ratio 0.0004: .* expected a whole number"),
        ("merge", {}, "phi_mamba", 0.6667, "phi_mamba: layer 0: found 4 groups to merge by 3"),
        (
            "random",
            {"unit": "block"},
            "merged_hybrid",
            0.5,
            "hybrid_llama: found 1 mixers",
        ),
        ("random", {"unit": "block"}, "grouped", 0.25, "mamba2: removes 0 of 2 mixers at ratio"),
    ],
)
def test_refusals_say_what_is_wrong(method, params, model, ratio, message):
    with pytest.raises(MethodError, match=message):
        run(build(MODELS[model]), method, ratio, **params)


def test_uneven_norms_are_refused_by_name():
    """Of four groups one goes; two norms over two groups each cannot both lose as much."""
    sizes = d.SSD(4, 2, 3, n_groups=4, norm_groups=2)
    with pytest.raises(MethodError, match=r"smol: layer 0: found norm groups that would keep"):
        run(build(of("smol", d.Layer(sizes, RMS))), "head", 0.25, score="magnitude")


def test_the_smallest_ratio_named_is_one_that_works():
    for n in range(2, 6000, 7):
        with pytest.raises(MethodError) as caught:
            units.count(n, 0.5 / n, units="heads", where="mamba2")
        ratio = float(str(caught.value).split()[-1].rstrip("."))
        assert units.count(n, ratio, units="heads", where="mamba2").gone == 1


@pytest.mark.parametrize(("ratio", "size"), [(0, 1), (0.5, 2), (0.667, 3), (2 / 3, 3), (0.75, 4)])
def test_a_ratio_says_how_many_become_one(ratio, size):
    assert merged_into_one(ratio) == size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"unit": "state", "targets": "in_proj"}, "`targets` is for the unit `weight`"),
        ({"unit": "head_dim", "layers": "attention"}, "expected ssm"),
        ({"unit": "weight", "granularity": 16}, "for the units `state`, `head_dim` and `head`"),
        ({"unit": "block", "layers": "mlp"}, "expected ssm or attention or all"),
    ],
)
def test_random_refuses_parameters_that_do_not_go_together(given, message):
    with pytest.raises(ValueError, match=message):
        RandomParams(**given)


def test_what_stays_is_rounded_up_to_the_granularity():
    model = build(of("mamba2", d.Layer(d.SSD(4, 64, 128, n_groups=1), RMS)))
    dense = model.description
    assert run(model, "state", 0.3, score="magnitude", granularity=16) == 32 / 128
    assert run(model, "head_dim", 0.3, score="magnitude", granularity=16) == 16 / 64
    sizes = model.description.layers[0].mixer
    assert (sizes.d_state, sizes.head_dim) == (96, 48)
    assert units.slow_shapes(model, dense) == []
    with pytest.raises(MethodError, match="since the 36 that stay are rounded up to a multiple of"):
        run(model, "head_dim", 0.25, score="magnitude", granularity=48)


def test_shapes_that_kernels_are_slow_on_are_told_with_what_would_be_fast():
    layer = d.Layer(d.SSD(4, 64, 128, n_groups=1), RMS)
    model = build(of("mamba2", layer, layer))
    dense = model.description
    run(model, "state", 0.3, score="magnitude")
    run(model, "head_dim", 0.25, score="magnitude")
    (told,) = units.slow_shapes(model, dense)
    assert told.startswith("2 of 2 layers keep 90 states, no multiple of 16")
    assert "`granularity: 16` keeps 96" in told
    toy = build(of("mamba2", d.Layer(d.SSD(4, 4, 6, n_groups=1), RMS)))
    assert units.slow_shapes(toy, toy.description) == []


@pytest.mark.parametrize("name", ["state", "head_dim", "head", "merge", "random"])
def test_methods_say_what_they_need(name):
    module = plugins.load("method", name)
    if name == "random":
        assert module.needs(module.Params()) == {"seed"}
    elif name == "merge":
        assert module.needs(module.Params()) == set()
    else:
        assert module.needs(module.Params()) == {"calibration"}
        assert module.needs(module.Params(score="random")) == {"seed"}
        assert module.needs(module.Params(score="magnitude")) == set()


@st.composite
def mixers(draw):
    """Draw a mixer of any kind: one group, one head, one state, odd counts."""
    small = st.integers(1, 6)
    g, r, p, n = draw(small), draw(st.integers(1, 4)), draw(small), draw(small)
    kind = draw(st.sampled_from(["bc", "xb", "scan", "attention"]))
    if kind == "scan":
        return d.SelectiveScan(p * r, n, dt_rank=2)
    if kind == "attention":
        return d.Attention(g * r, g, 2 * p, 2 * p, bias=draw(st.booleans()))
    discrete = draw(st.booleans())
    return d.SSD(
        g * r,
        p,
        n,
        n_groups=g,
        shared=kind,
        discrete=discrete,
        z_bias=discrete,
        norm_groups=draw(st.sampled_from([0, 1, g, g * r])),
    )


def places(method: str, sizes: d.Mixer, unit: str | None) -> tuple[str, int]:
    """Give the axis of a method's units and how many each place chooses among, by hand."""
    if isinstance(sizes, d.SelectiveScan):
        return {"state": ("n", sizes.d_state), "head_dim": ("p", sizes.d_inner)}[method]
    attention = isinstance(sizes, d.Attention)
    groups = sizes.n_kv_heads if attention else sizes.n_groups
    per_group = sizes.n_heads // groups
    if method == "state":
        return "n", sizes.d_state
    if method == "head_dim":
        return "p", sizes.head_dim
    if method == "merge":
        return ("g", groups) if groups > 1 else ("r", per_group)
    shares = attention or sizes.shared == "xb"
    by_group = unit == "group" or (unit is None and (shares or (per_group == 1 and groups > 1)))
    return ("g", groups) if by_group else ("r", per_group)


def attempt(model, method: str, ratio: float, **given) -> tuple[float, str | None]:
    """Give what was achieved, or why nothing was."""
    try:
        return run(model, method, ratio, **given), None
    except MethodError as error:
        return 0.0, str(error)


EVEN = st.sampled_from([0.5, 0.5, 2 / 3, 0.75, 0.8])


@pytest.mark.parametrize("method", ["state", "head_dim", "head", "merge"])
@settings(max_examples=60, deadline=None)
@given(
    sizes=mixers(),
    unit=st.sampled_from([None, "head", "group"]),
    ratio=st.one_of(EVEN, EVEN, st.floats(0, 0.999), st.just(0.999999)),
    seed=st.integers(0, 99),
    granularity=st.sampled_from([1, 1, 2, 3, 4]),
)
def test_any_shape_is_cut_exactly_or_refused(method, sizes, unit, ratio, seed, granularity):
    description = d.Description("drawn", 6, 61, (d.Layer(sizes, LAYER),), RMS)
    rounding = {"score": "random", "granularity": granularity}
    params = {} if method == "merge" else rounding
    params |= {"unit": unit} if method == "head" else {}
    params |= {"layers": "all"} if method in ("head", "merge") else {}
    cut, twin = build(description), build(description)
    achieved, refusal = attempt(cut, method, ratio, seed=seed, **params)
    if refusal is not None:
        assert refusal.startswith(("drawn: ", f"ratio {ratio:g}: "))
        assert refusal.endswith(".")
        assert cut.description == description
        return
    axis, n = places(method, sizes, unit)
    if method == "merge":
        gone = n - n // merged_into_one(ratio)
        equalise(twin, 0, axis, merged_into_one(ratio))
    else:
        kept = n - n_dropped(n, ratio)
        gone = n - min(n, kept + -kept % granularity)
        run(twin, method, ratio, seed=seed, remove=axes.mask, **params)
    assert achieved == pytest.approx(gone / n, abs=1e-12)
    assert table(cut.description.layers[0].mixer).length[axis] == n - gone
    assert_same(cut(tokens(1, 7)), twin(tokens(1, 7)), within=1e-4)
    assert flops.parameters(cut.description).model == sum(p.numel() for p in cut.parameters())
