"""SSM-FLAP: what it measures, which heads it chooses, and what is left without them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmbench import plugins
from ssmbench.errors import MethodError, NumericalError
from ssmbench.methods import ssm_flap
from ssmbench.methods.ssm_flap import choose, head_scores, kept_per_layer, n_kept
from ssmbench.models import description as d
from ssmbench.models.decoder import Decoder
from ssmbench.models.initialise import initialise
from ssmbench.surgery import axes
from ssmbench.surgery.context import MethodContext
from ssmbench.surgery.statistics import Moments, run

MLP = d.MLP("gelu_tanh", 20, bias=True)
# Every way in which heads share: B and C by none, by all, by some; x and B by some.
MIXERS = {
    "each alone": d.SSD(
        6, 4, 5, n_groups=6, discrete=True, conv_activation="identity", z_bias=True, norm_groups=0
    ),
    "one group": d.SSD(6, 4, 5),
    "two groups": d.SSD(6, 4, 5, n_groups=2, norm_groups=2),
    "shared x": d.SSD(6, 4, 5, n_groups=2, shared="xb", norm_groups=6),
}


def build(mixer: d.Mixer, *, seed: int = 0) -> Decoder:
    """Make a decoder of an SSM layer, one with attention, one with an MLP, and another SSM."""
    attention = d.Attention(2, 1, 6, 6, bias=False)
    layers = (
        d.Layer(mixer, d.Norm()),
        d.Layer(attention, d.Norm(), MLP),
        d.Layer(mixer, d.Norm(), MLP, "parallel", one_norm=True),
        d.Layer(mixer, d.Norm()),
    )
    model = Decoder(d.Description("test", 12, 61, layers, d.Norm()))
    initialise(model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "mixer" in name and parameter.ndim == 1:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(noise, alpha=0.3)
    return model.eval().requires_grad_(False)


def windows(n: int = 6) -> torch.Tensor:
    return torch.randint(0, 61, (n, 16), generator=torch.Generator().manual_seed(1))


def prune(model: Decoder, ratio: float, *, remove=axes.take, share=None, **params) -> float:
    more = {"share": share} if share else {}
    context = MethodContext(0, windows(), batch_tokens=32, remove=remove, **more)
    return ssm_flap.compress(model, ratio=ratio, params=ssm_flap.Params(**params), context=context)


def ssm(model: Decoder) -> dict[int, d.SSD]:
    specs = enumerate(model.description.layers)
    return {i: spec.mixer for i, spec in specs if isinstance(spec.mixer, d.SSD)}


def inputs_of_out_proj(model: Decoder) -> dict[int, torch.Tensor]:
    """Record (samples, length, d_inner) of every SSM layer in one forward pass."""
    seen = {}
    for i in ssm(model):
        hook = lambda _m, x, i=i: seen.__setitem__(i, x[0].view(*windows().shape, -1))  # noqa: E731
        model.layers[i].mixer.out_proj.register_forward_pre_hook(hook)
    copied = copy.deepcopy(model)
    for i in ssm(model):
        model.layers[i].mixer.out_proj._forward_pre_hooks.clear()
    copied(windows())
    return {i: x.double() for i, x in seen.items()}


@pytest.mark.parametrize(
    ("layers", "heads", "ratio", "removed"),
    [
        # Smol2-Mamba-1.9B and Phi-Mamba; seen in the public repository's results/*.json.
        (24, 32, 0.25, 193),
        (24, 32, 0.5, 385),
        # Mamba-2-2.7B; follows from the Comp. column of arXiv:2502.18886, table 1.
        (64, 80, 0.25, 1281),
        (64, 80, 0.5, 2561),
    ],
)
def test_the_published_numbers_of_heads_go(layers, heads, ratio, removed):
    generator = torch.Generator().manual_seed(0)
    scores = list(torch.randn(layers, heads, 1, generator=generator, dtype=torch.float64))
    assert layers * heads - sum(kept_per_layer(scores, ratio)) == removed


def published_mask(scores: torch.Tensor, ratio: float) -> torch.Tensor:
    """Choose as FLAP's lib/prune.py does, its weight of a head being the same for all."""
    ranked = torch.sort(scores, descending=True).values
    weight = torch.ones_like(ranked)
    nearest = torch.argmin(torch.abs(torch.cumsum(weight, 0) - weight.sum() * (1 - ratio)))
    return scores > ranked[nearest]


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 60),
    removed=st.integers(0, 120),
    ratio=st.floats(0.001, 0.999),
    halves=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_threshold_is_that_of_the_published_code(n, removed, ratio, halves, seed):
    # Whole and half numbers of heads are where a rounding error could show.
    ratio = min(max(removed / (2 * n), 0.001), 0.999) if halves else ratio
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randperm(n, generator=generator).double()
    kept = sum(kept_per_layer(list(scores.split(7)), ratio))
    assert kept == n_kept(n, ratio)
    assert abs(kept - int(published_mask(scores, ratio).sum())) <= (halves and removed % 2)


def test_a_head_scores_by_hand():
    # Columns of squared length 1, 4, 1, 0 and variances 1, 1, 2, 9: metrics 1, 16, 4, 0, whose
    # mean is 5.25 and whose unbiased standard deviation is √(162.75 / 3).
    weight = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    variance = torch.tensor([1.0, 1.0, 2.0, 9.0], dtype=torch.float64)
    scores = head_scores(variance, weight, d.SSD(2, 2, 3), layer=0)
    spread = math.sqrt((4.25**2 + 10.75**2 + 1.25**2 + 5.25**2) / 3)
    expected = torch.tensor([[(8.5 - 5.25) / spread, (2 - 5.25) / spread]], dtype=torch.float64)
    torch.testing.assert_close(scores, expected)


def running_fluctuation(x: torch.Tensor) -> torch.Tensor:
    """Fold windows (samples, length, channels) as FLAP's lib/layerwrapper.py does."""
    mean = torch.zeros(x.shape[-1], dtype=x.dtype)
    fluctuation = torch.zeros_like(mean)
    for n, window in enumerate(x):
        old = mean.clone()
        mean = mean * n / (n + 1) + window.mean(0) / (n + 1)
        if n == 0:
            continue
        fluctuation = fluctuation * (n - 1) / n
        fluctuation += ((window - mean) * (window - old)).sum(0) / (n + 1)
    return fluctuation


def test_the_variance_ranks_as_the_published_running_update():
    generator = torch.Generator().manual_seed(0)
    scale = 1.03 ** torch.randperm(64, generator=generator).double()
    noise = torch.randn(128, 32, 64, generator=generator, dtype=torch.float64)
    x = scale * (noise + torch.randn(64, generator=generator, dtype=torch.float64))
    layer = torch.nn.Linear(64, 8).double()
    with Moments({"it": layer}) as moments:
        layer(x)
    ours, theirs = moments.variances()["it"], running_fluctuation(x)
    assert ours.argsort().tolist() == theirs.argsort().tolist()
    # Window n of 128 weighs n / (n + 1) there, the first one nothing: a factor for all channels.
    factor = 32 * sum(n / (n + 1) for n in range(1, 128)) / 127
    torch.testing.assert_close(theirs, factor * ours, rtol=0.01, atol=0)
    weight, sizes = layer.weight.detach(), d.SSD(16, 4, 5)
    a, b = (head_scores(v, weight, sizes, layer=0) for v in (ours, theirs))
    # Heads that are nearly equal may rank either way.
    torch.testing.assert_close(b, a, rtol=0.01, atol=0.02)


def test_choosing_by_hand():
    groups = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.8]])
    # One head wanted: one of every group; three: two of every group; more than all: all.
    assert choose(groups, 1).tolist() == [[False, True, False], [False, False, True]]
    assert choose(groups, 3).tolist() == [[False, True, True], [True, False, True]]
    assert bool(choose(groups, 99).all())
    # One head a group: groups go, any number of them. On ties the lower index stays.
    alone = torch.tensor([[0.1], [0.9], [0.9], [0.9]])
    assert choose(alone, 2)[:, 0].tolist() == [False, True, True, False]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("name", MIXERS)
def test_taking_equals_masking(name, ratio):
    taken, masked = build(MIXERS[name]), build(MIXERS[name])
    assert prune(taken, ratio) == prune(masked, ratio, remove=axes.mask) > 0
    # 1e-5: float32 sums over fewer terms.
    torch.testing.assert_close(taken(windows()), masked(windows()), rtol=1e-5, atol=1e-5)
    before = ssm(build(MIXERS[name]))
    lost = sum(before[i].n_heads - s.n_heads for i, s in ssm(taken).items())
    assert prune(build(MIXERS[name]), ratio) == lost / sum(s.n_heads for s in before.values())


@settings(max_examples=30, deadline=None)
@given(
    groups=st.integers(1, 5),
    per_group=st.integers(1, 4),
    head_dim=st.integers(1, 3),
    shared=st.sampled_from(["bc", "xb"]),
    discrete=st.booleans(),
    ratio=st.sampled_from([0.01, 0.3, 0.5, 0.999]),
)
def test_any_shape_is_pruned_evenly_or_refused(
    groups, per_group, head_dim, shared, discrete, ratio
):
    heads = groups * per_group
    # A norm over one channel is a sign but for its eps: a large one keeps rounding from showing,
    # and an eps that was not rescaled from hiding.
    norm_groups = 0 if discrete else groups
    sizes = d.SSD(
        *(heads, head_dim, 3, groups, shared),
        discrete=discrete,
        norm_groups=norm_groups,
        norm_eps=0.01,
    )
    taken, masked = build(sizes), build(sizes)
    if heads * head_dim == 1:
        with pytest.raises(NumericalError, match="all the same"):
            prune(taken, ratio)
        return
    try:
        achieved = prune(taken, ratio)
    except MethodError:
        # Each layer's heads were rounded up to all of them.
        assert per_group > 1 or heads == 1
        with pytest.raises(MethodError, match=f"removes 0 of {3 * heads} heads"):
            prune(masked, ratio)
        return
    assert prune(masked, ratio, remove=axes.mask) == achieved > 0
    left = ssm(taken).values()
    assert achieved == (3 * heads - sum(s.n_heads for s in left)) / (3 * heads)
    for after in left:
        assert 1 <= after.n_heads <= heads
        assert after.n_groups == (after.n_heads if per_group == 1 else groups)
        assert after.n_heads % after.n_groups == 0
    torch.testing.assert_close(taken(windows()), masked(windows()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("name", MIXERS)
def test_the_best_heads_stay_as_many_in_every_group(name, ratio):
    model = build(MIXERS[name])
    scores = {}
    for i, x in inputs_of_out_proj(model).items():
        variance = x.flatten(0, 1).var(0, unbiased=False)
        weight = model.layers[i].mixer.out_proj.weight
        scores[i] = head_scores(variance, weight, MIXERS[name], layer=i)
    wanted = dict(zip(scores, kept_per_layer(list(scores.values()), ratio), strict=True))
    masked = build(MIXERS[name])
    prune(masked, ratio, remove=axes.mask)
    for i, score in scores.items():
        columns = masked.layers[i].mixer.out_proj.weight.any(0)
        kept = columns.view(*score.shape, -1).all(-1)
        assert torch.equal(kept, columns.view(*score.shape, -1).any(-1))
        groups, per_group = score.shape
        each = math.ceil(max(wanted[i], 1) / (1 if per_group == 1 else groups))
        rows = (kept.T, score.T) if per_group == 1 else (kept, score)
        for chosen, row in zip(*rows, strict=True):
            assert set(chosen.nonzero()[:, 0].tolist()) == set(row.topk(each).indices.tolist())


def test_layers_lose_differing_numbers_of_heads():
    model = build(MIXERS["one group"])
    prune(model, 0.5)
    left = [s.n_heads for s in ssm(model).values()]
    assert len(set(left)) > 1
    assert sum(left) == 18 - 10


def test_where_heads_are_alone_their_b_and_c_go_with_them():
    model = build(MIXERS["each alone"])
    prune(model, 0.5)
    for before, after in zip([MIXERS["each alone"]] * 3, ssm(model).values(), strict=True):
        assert after.n_groups == after.n_heads <= before.n_heads
        assert after.d_state == before.d_state


@pytest.mark.parametrize("min_heads", [1, 4])
def test_every_layer_keeps_the_least_number_of_heads(min_heads):
    model = build(MIXERS["one group"])
    prune(model, 0.999, min_heads=min_heads)
    assert [s.n_heads for s in ssm(model).values()] == [min_heads] * 3


def test_a_ratio_that_removes_nothing_is_refused():
    with pytest.raises(MethodError, match=r"removes 0 of 18 heads at ratio 0\.5, .* at least 99"):
        prune(build(MIXERS["one group"]), 0.5, min_heads=99)


@pytest.mark.parametrize("name", MIXERS)
def test_the_bias_is_what_the_removed_heads_gave_on_average(name):
    model, plain, dense = (build(MIXERS[name]) for _ in range(3))
    prune(model, 0.5, remove=axes.mask)
    prune(plain, 0.5, remove=axes.mask, bias=False)
    for i, x in inputs_of_out_proj(dense).items():
        weight = dense.layers[i].mixer.out_proj.weight.double()
        gone = ~plain.layers[i].mixer.out_proj.weight.any(0)
        bias = model.layers[i].mixer.out_proj.bias
        assert plain.layers[i].mixer.out_proj.bias is None
        if not gone.any():
            assert bias is None
            continue
        expected = (x.flatten(0, 1).mean(0) * gone) @ weight.T
        torch.testing.assert_close(bias.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["each alone", "shared x"])
def test_the_bias_restores_the_mean_output(name):
    """Where no norm spans several heads, the first layer gives the dense mean again, exactly."""

    def mean(model: Decoder) -> torch.Tensor:
        seen = []
        hook = model.layers[0].register_forward_hook(lambda _m, _x, y: seen.append(y[0]))
        run(model, windows(), batch_tokens=1000)
        hook.remove()
        return seen[0].double().mean(0)

    dense, model, plain = (build(MIXERS[name], seed=1) for _ in range(3))
    prune(model, 0.5)
    prune(plain, 0.5, bias=False)
    assert ssm(model)[0].n_heads < MIXERS[name].n_heads
    torch.testing.assert_close(mean(model), mean(dense), rtol=1e-4, atol=1e-5)
    assert (mean(plain) - mean(dense)).norm() > 100 * (mean(model) - mean(dense)).norm()


def test_the_model_is_measured_once_and_before_anything_goes():
    kept, calls = {}, []

    def share(key, compute):
        calls.append(tuple(sorted(key.items())))
        if calls[-1] not in kept:
            kept[calls[-1]] = compute()
        return kept[calls[-1]]

    for ratio in (0.25, 0.5):
        shared, alone = build(MIXERS["shared x"]), build(MIXERS["shared x"])
        prune(shared, ratio, share=share)
        prune(alone, ratio)
        for a, b in zip(shared.parameters(), alone.parameters(), strict=True):
            assert torch.equal(a, b)
    assert (len(calls), len(kept)) == (2, 1)


@pytest.mark.parametrize("name", MIXERS)
def test_ratio_zero_leaves_every_bit(name):
    model, dense = build(MIXERS[name]), build(MIXERS[name])
    assert prune(model, 0.0) == 0
    for a, b in zip(model.parameters(), dense.parameters(), strict=True):
        assert torch.equal(a, b)
    assert model.description == dense.description


def test_a_layer_that_gives_out_nothing_is_an_error():
    model = build(MIXERS["one group"])
    model.layers[2].mixer.norm.weight.zero_()
    with pytest.raises(NumericalError, match=r"layers\.2\.mixer\.out_proj: .* all the same"):
        prune(model, 0.5)
    model.layers[2].mixer.norm.weight.fill_(math.inf)
    with pytest.raises(NumericalError, match=r"layers\.2\.mixer\.out_proj: .* not finite"):
        prune(model, 0.5)


@pytest.mark.parametrize("family", ["mamba", "gpt_neox"])
def test_a_model_without_heads_is_refused(family):
    model = Decoder(plugins.load("family", family).tiny())
    with pytest.raises(MethodError, match=f"{family}: found no SSM heads"):
        prune(model, 0.5)
