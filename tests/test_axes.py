"""Take, mask and pool against mixers written head by head (see surgery_helpers)."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from surgery_helpers import (
    D_MODEL,
    MODELS,
    RMS,
    Alive,
    assert_same,
    build,
    equalise,
    mixed,
    naive,
    of,
    tokens,
)

from ssmbench.errors import MethodError
from ssmbench.models import description as d
from ssmbench.models import flops
from ssmbench.surgery import axes
from ssmbench.surgery.coupling import pooled, resized, table, width

MIXERS = {
    f"{name}-{i}": layer.mixer
    for name, description in MODELS.items()
    for i, layer in enumerate(description.layers[:2])
    if layer.mixer is not None and (i == 0 or layer.mixer != description.layers[0].mixer)
}
REMOVED = [(name, axis) for name, m in MIXERS.items() for axis in "grpn" if axis in table(m).lead]
POOLED = [
    (name, axis, size)
    for name, m in MIXERS.items()
    for axis in "gr"
    for size in (2, 3)
    if axis in table(m).lead and table(m).length[axis] % size == 0
]
# float32 beside float64, over sums of 24 to 48 terms.
ROUNDING = 1e-5


def one_layer(mixer: d.Mixer):
    return build(of("test", d.Layer(mixer, RMS)))


def inputs(d_model: int = D_MODEL) -> torch.Tensor:
    return torch.randn(11, d_model, generator=torch.Generator().manual_seed(2))


def choose(mixer: d.Mixer, axis: str, *, seed: int = 0) -> torch.Tensor:
    """Choose about half of an axis, otherwise for each index of its lead."""
    generator = torch.Generator().manual_seed(seed)
    *lead, n = table(mixer).shape(axis)
    k = max(1, n // 2)
    return torch.rand(*lead, n, generator=generator).argsort(-1)[..., :k].sort(-1).values


def alive_after(sizes: d.Mixer, axis: str, keep: torch.Tensor) -> Alive:
    """Say by hand what a choice leaves, head h being the r-th of group g."""
    alive = Alive(sizes)
    if isinstance(sizes, d.SelectiveScan):
        which = alive.states if axis == "n" else alive.channels
        which.zero_()
        which[0, keep.flatten()] = True
        return alive
    groups = sizes.n_groups if isinstance(sizes, d.SSD) else sizes.n_kv_heads
    per_group = sizes.n_heads // groups
    for h in range(sizes.n_heads):
        g, r = divmod(h, per_group)
        if axis == "g":
            alive.channels[h] = g in keep.tolist()
        elif axis == "r":
            alive.channels[h] = r in keep[g].tolist()
        elif axis == "p":
            kept = keep[g, r] if sizes.shared == "bc" else keep[g]
            alive.channels[h] = torch.tensor([p in kept.tolist() for p in range(sizes.head_dim)])
    for g in range(len(alive.states) if axis == "n" else 0):
        alive.states[g] = torch.tensor([n in keep[g].tolist() for n in range(sizes.d_state)])
    return alive


@pytest.mark.parametrize("name", MIXERS)
def test_the_table_accounts_for_every_row_and_column(name):
    mixer, sizes = one_layer(MIXERS[name]).layers[0].mixer, MIXERS[name]
    t = table(sizes)
    for block in t.blocks:
        assert mixer.get_parameter(block.parameter).shape[block.dim] == width(t, block)
    whole = {"conv1d.weight", "out_proj.bias", "o_proj.bias", "dt_proj.weight"}
    named = {block.parameter for block in t.blocks}
    assert {n for n, _ in mixer.named_parameters()} <= named | whole
    assert {(b.parameter, b.dim) for b in t.blocks} >= {*t.scored, t.summed}


@pytest.mark.parametrize("operation", [axes.take, axes.mask])
@pytest.mark.parametrize(("name", "axis"), REMOVED)
def test_what_stays_computes_what_it_did_before(name, axis, operation):
    sizes = MIXERS[name]
    model = one_layer(sizes)
    keep = choose(sizes, axis)
    weights = {n: t.clone() for n, t in model.layers[0].mixer.state_dict().items()}
    expected = naive(sizes, weights, inputs(), alive_after(sizes, axis, keep))
    operation(model, 0, axis, keep)
    assert_same(mixed(model, 0, inputs()), expected, within=ROUNDING)
    assert flops.parameters(model.description).model == sum(p.numel() for p in model.parameters())
    if operation is axes.take:
        assert table(model.description.layers[0].mixer).length[axis] == keep.shape[-1]
    else:
        assert model.description.layers[0].mixer == sizes


@pytest.mark.parametrize(("name", "axis", "size"), POOLED)
def test_pooling_computes_what_means_in_place_of_each_would(name, axis, size):
    sizes = MIXERS[name]
    model, twin = one_layer(sizes), one_layer(sizes)
    after = pooled(sizes, axis, size)
    equalise(twin, 0, axis, size)
    expected = naive(sizes, twin.layers[0].mixer.state_dict(), inputs(), Alive(sizes))
    axes.pool(model, 0, axis, size)
    assert model.description.layers[0].mixer == after
    assert table(after).length[axis] == table(sizes).length[axis] // size
    assert_same(mixed(model, 0, inputs()), expected, within=ROUNDING)


@pytest.mark.parametrize(("name", "axis"), REMOVED)
def test_taking_everything_changes_no_bit(name, axis):
    model, dense = one_layer(MIXERS[name]), one_layer(MIXERS[name])
    *lead, n = table(MIXERS[name]).shape(axis)
    axes.take(model, 0, axis, torch.arange(n).expand(*lead, n))
    assert model.description == dense.description
    for (name, ours), theirs in zip(model.named_parameters(), dense.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_the_norm_is_rescaled_by_the_channels_that_went():
    sizes = d.SSD(2, 8, 3)
    model = one_layer(sizes)
    weight = model.layers[0].mixer.norm.weight.clone()
    axes.take(model, 0, "p", torch.tensor([[[1, 6], [0, 2]]]))
    # 16 channels became 4: weights double, and so that the mean stays what it was, eps × 4.
    expected = 2 * weight[[1, 6, 8, 10]]
    assert torch.equal(model.layers[0].mixer.norm.weight, expected)
    assert model.description.layers[0].mixer.norm_eps == 4 * sizes.norm_eps


def test_a_norm_that_would_lose_more_than_its_neighbour_is_refused():
    model = one_layer(d.SSD(4, 2, 3, norm_groups=2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MethodError, match=r"keep \[2, 4\] of 4 channels"):
        axes.take(model, 0, "r", torch.tensor([[0, 1, 2]]))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_norm_whose_heads_all_go_goes_with_them():
    model = one_layer(d.SSD(4, 2, 3, norm_groups=2))
    axes.take(model, 0, "r", torch.tensor([[2, 3]]))
    assert model.description.layers[0].mixer == d.SSD(2, 2, 3, norm_groups=1)


@pytest.mark.parametrize("norm_groups", [1, 2, 4, 8, 16])
def test_pooling_heads_keeps_norms_over_whole_heads(norm_groups):
    """Norms over four heads, two, one, half of one, and two channels; merged by two."""
    sizes = d.SSD(8, 4, 3, norm_groups=norm_groups)
    model, twin = one_layer(sizes), one_layer(sizes)
    equalise(twin, 0, "r", 2)
    axes.pool(model, 0, "r", 2)
    assert_same(mixed(model, 0, inputs()), mixed(twin, 0, inputs()), within=ROUNDING)


def test_norms_that_merging_would_mix_are_refused():
    with pytest.raises(MethodError, match="norms over 24 channels each while merging 2 heads of 8"):
        pooled(d.SSD(6, 8, 3, norm_groups=2), "r", 2)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 0), "keeps .2, 0. of 4 heads"), ((2, 5), "1 to 4"), ((1, 2), r"shape \(2, 1 to 4\)")],
)
def test_choices_of_the_wrong_shape_are_refused(shape, message):
    model = one_layer(d.SSD(8, 4, 3, n_groups=2))
    with pytest.raises(MethodError, match=message):
        axes.take(model, 0, "r", torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize(
    ("sizes", "axis", "message"),
    [
        (d.SelectiveScan(8, 4, 2), "r", "without heads"),
        (d.Attention(4, 2, 4, 4), "p", "without channels"),
        (d.Attention(4, 2, 4, 4), "n", "without states"),
    ],
)
def test_an_axis_that_a_mixer_lacks_is_refused(sizes, axis, message):
    with pytest.raises(MethodError, match=message):
        axes.take(one_layer(sizes), 0, axis, torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(MethodError, match=message):
        resized(sizes, axis, 1)


@pytest.mark.parametrize(
    ("axis", "size", "message"),
    [("r", 3, "4 heads to merge by 3"), ("g", 0, "2 groups"), ("p", 2, "expected groups or heads")],
)
def test_pooling_that_does_not_come_out_even_is_refused(axis, size, message):
    with pytest.raises(MethodError, match=message):
        axes.pool(one_layer(d.SSD(8, 4, 3, n_groups=2)), 0, axis, size)


@pytest.mark.parametrize("name", MODELS)
def test_removing_a_mixer_equals_zeroing_its_output(name):
    cut, masked = build(MODELS[name]), build(MODELS[name])
    axes.remove_mixer(cut, 0)
    axes.mask_mixer(masked, 0)
    ids = tokens(2, 9)
    assert_same(cut(ids), masked(ids))
    block = cut.layers[0]
    assert (block.norm is None) == (not (block.spec.one_norm and block.spec.mlp))
    assert flops.parameters(cut.description).model == sum(p.numel() for p in cut.parameters())
    with pytest.raises(MethodError, match="layer 0: found no mixer; it was removed before"):
        axes.remove_mixer(cut, 0)


@pytest.mark.parametrize("name", ["mamba", "grouped", "smol_mamba", "hybrid"])
def test_an_output_bias_is_added_to_what_the_mixer_gives(name):
    model, dense = build(MODELS[name]), build(MODELS[name])
    bias = torch.arange(model.description.d_model) / 10
    axes.add_output_bias(model, 0, bias)
    u = inputs(model.description.d_model)
    assert_same(mixed(model, 0, u), mixed(dense, 0, u) + bias)
    assert model.description.layers[0].mixer.out_bias


def test_surgery_leaves_the_other_layers_alone():
    model = build(MODELS["grouped"])
    second = model.layers[1].mixer
    axes.take(model, 0, "n", torch.tensor([[0, 1]] * 4))
    assert model.layers[1].mixer is second
    assert [layer.mixer.d_state for layer in model.description.layers] == [2, 4]
    assert model.layers[0].spec == model.description.layers[0]


def test_dtype_frozenness_and_mode_survive():
    model = build(MODELS["grouped"]).bfloat16()
    axes.take(model, 0, "p", choose(model.description.layers[0].mixer, "p"))
    mixer = model.layers[0].mixer
    assert not mixer.training
    assert {(p.dtype, p.requires_grad) for p in mixer.parameters()} == {(torch.bfloat16, False)}
    model.layers[1].mixer.requires_grad_(True)
    axes.pool(model, 1, "g", 2)
    assert all(p.requires_grad for p in model.layers[1].mixer.parameters())


MAMBA2 = d.SSD(80, 64, 128)
PHI = d.SSD(32, 64, 64, n_groups=32, discrete=True, z_bias=True, norm_groups=0)
SMOL = dataclasses.replace(PHI, d_state=96)
LLAMA = d.SSD(24, 128, 128, n_groups=8, shared="xb", norm_groups=24)


@pytest.mark.parametrize(
    ("sizes", "rows", "channels", "columns"),
    [
        (resized(PHI, "n", 48), 7200, 5120, 2048),
        (resized(PHI, "n", 32), 6176, 4096, 2048),
        (resized(PHI, "p", 48), 7200, 5632, 1536),
        (resized(PHI, "p", 32), 6176, 5120, 1024),
        (pooled(PHI, "g", 2), 6176, 4096, 2048),
        (pooled(PHI, "g", 4), 5152, 3072, 2048),
        (resized(SMOL, "n", 72), 8736, 6656, 2048),
        (pooled(SMOL, "g", 4), 5664, 3584, 2048),
        (resized(MAMBA2, "n", 96), 10512, 5312, 5120),
        (resized(MAMBA2, "p", 48), 8016, 4096, 3840),
        (resized(MAMBA2, "p", 32), 5456, 2816, 2560),
        (resized(LLAMA, "n", 96), 7192, 4096, 3072),
        (resized(LLAMA, "n", 64), 6168, 3072, 3072),
        (pooled(LLAMA, "g", 2), 7192, 4096, 3072),
        (pooled(LLAMA, "g", 4), 6680, 3584, 3072),
    ],
)
def test_the_published_models_get_the_published_shapes(sizes, rows, channels, columns):
    """Rows of in_proj, channels of the convolution and columns of out_proj (spec, section 8.1)."""
    found = {(b.parameter, b.dim): width(table(sizes), b) for b in table(sizes).blocks}
    assert found["in_proj.weight", 0] == rows
    assert found["conv1d.weight", 0] == channels
    assert found["out_proj.weight", 1] == columns


def test_heads_per_group_survive_both_operations():
    hybrid = MODELS["hybrid"].layers[0].mixer
    assert resized(hybrid, "g", 2) == dataclasses.replace(hybrid, n_groups=2, n_heads=6)
    assert pooled(hybrid, "g", 2) == dataclasses.replace(hybrid, n_groups=2)
    assert math.prod(table(pooled(hybrid, "g", 4)).shape("r")) == 12
