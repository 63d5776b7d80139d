"""Unit scores against gradients taken plainly, and what they need and leave behind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from surgery_helpers import MODELS, Alive, assert_same, build, context, mixed, naive

from ssmbench import plugins
from ssmbench.errors import MethodError, NumericalError
from ssmbench.models import description as d
from ssmbench.surgery import scores
from ssmbench.surgery.context import MethodContext
from ssmbench.surgery.coupling import table

FAMILIES = plugins.names("family")


def plain_gradients(model, windows):
    """Give w² · E[g²], |w| · E|g| and |w| of every parameter, with the whole graph at once."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    model.requires_grad_(True)
    squares = [torch.zeros_like(p) for p in parameters]
    sizes = [torch.zeros_like(p) for p in parameters]
    for window in windows:
        logits = model(window[None])[0]
        loss = F.cross_entropy(logits[:-1], window[1:])
        for i, g in enumerate(torch.autograd.grad(loss, parameters)):
            squares[i] += g.square() / len(windows)
            sizes[i] += g.abs() / len(windows)
    model.requires_grad_(False)
    found = {"fisher": {}, "taylor": {}, "magnitude": {}}
    for name, w, square, size in zip(names, parameters, squares, sizes, strict=True):
        w = w.detach().abs()
        found["fisher"][name] = w.square() * square
        found["taylor"][name] = w * size
        found["magnitude"][name] = w
    return found


def by_hand(sizes: d.Mixer, axis: str, found: dict[str, torch.Tensor]) -> dict[tuple, float]:
    """Add up the rows and columns of each unit, from what each of them belongs to."""
    total: dict[tuple, float] = {}
    owners = {d.SSD: ssd_owners, d.SelectiveScan: scan_owners, d.Attention: attention_owners}
    for name, dim, units in owners[type(sizes)](sizes):
        values = found[name].mean(1 - dim)
        assert len(values) == len(units)
        for value, owner in zip(values.tolist(), units, strict=True):
            if axis in owner:
                # A state or channel is its group's or head's own; a group has all that is in it.
                lead = "gr" if isinstance(sizes, d.SSD) and sizes.shared == "bc" else "g"
                keys = {"g": "g", "r": "gr", "n": "gn", "p": lead + "p"}[axis]
                unit = tuple(owner[a] for a in keys)
                total[unit] = total.get(unit, 0.0) + value
    return total


def heads(n: int, groups: int, axis: str | None = None, width: int = 1) -> list[dict[str, int]]:
    """Name the rows of n heads, by group and place in it, and by what each head has inside."""
    per_group = n // groups
    return [
        {"g": h // per_group, "r": h % per_group, **({axis: i} if axis else {})}
        for h in range(n)
        for i in range(width)
    ]


def shared(groups: int, axis: str, width: int) -> list[dict[str, int]]:
    """Name the rows that a group's heads share."""
    return [{"g": g, axis: i} for g in range(groups) for i in range(width)]


def ssd_owners(s: d.SSD):
    z = heads(s.n_heads, s.n_groups, "p", s.head_dim)
    B = shared(s.n_groups, "n", s.d_state)
    if s.shared == "bc":
        x, C = z, B
    else:
        x, C = shared(s.n_groups, "p", s.head_dim), heads(s.n_heads, s.n_groups, "n", s.d_state)
    yield "in_proj.weight", 0, [*z, *x, *B, *C, *heads(s.n_heads, s.n_groups)]
    yield "out_proj.weight", 1, z


def scan_owners(s: d.SelectiveScan):
    channels = [{"g": 0, "r": 0, "p": i} for i in range(s.d_inner)]
    states = [{"g": 0, "n": i} for i in range(s.d_state)]
    yield "in_proj.weight", 0, [*channels, *channels]
    yield "x_proj.weight", 0, [*[{}] * s.dt_rank, *states, *states]
    yield "out_proj.weight", 1, channels


def attention_owners(s: d.Attention):
    q = heads(s.n_heads, s.n_kv_heads, "p", s.head_dim)
    kv = shared(s.n_kv_heads, "p", s.head_dim)
    yield from (("q_proj.weight", 0, q), ("k_proj.weight", 0, kv), ("v_proj.weight", 0, kv))
    yield "o_proj.weight", 1, q


CASES = [
    (name, i, axis)
    for name in (*FAMILIES, "grouped", "hybrid", "merged_hybrid")
    for i, layer in enumerate(MODELS[name].layers[:2])
    for axis in "grpn"
    if layer.mixer is not None and axis in table(layer.mixer).lead
]


@pytest.fixture(scope="module")
def plain():
    """Give what plain autograd says about a model, once for each."""
    known = {}

    def give(name):
        if name not in known:
            model = build(MODELS[name])
            known[name] = plain_gradients(model, context(MODELS[name]).windows())
        return known[name]

    return give


@pytest.mark.parametrize("score", ["fisher", "taylor", "magnitude"])
@pytest.mark.parametrize(("name", "layer", "axis"), CASES)
def test_scores_are_the_sums_of_a_units_rows_and_columns(plain, name, layer, axis, score):
    sizes = MODELS[name].layers[layer].mixer
    prefix = f"layers.{layer}.mixer."
    mine = {n.removeprefix(prefix): t for n, t in plain(name)[score].items() if prefix in n}
    expected = by_hand(sizes, axis, mine)
    found = scores.of_units(
        build(MODELS[name]), {layer: axis}, score=score, context=context(MODELS[name])
    )[layer]
    assert found.shape == table(sizes).shape(axis)
    assert found.numel() == len(expected)
    flat = torch.tensor([expected[unit] for unit in sorted(expected)])
    # One more sum of up to 48 terms in float32, and gradients in another order.
    torch.testing.assert_close(found.flatten(), flat, rtol=1e-4, atol=1e-6 * float(flat.max()))
    assert bool((found > 0).all())


def test_the_loss_is_that_of_the_next_token():
    model = build(MODELS["mamba2"])
    window = context(MODELS["mamba2"]).windows()[0]
    expected = 0.0
    for t in range(len(window) - 1):
        logits = model(window[None, : t + 1])[0, -1]
        expected -= float(logits.log_softmax(-1)[window[t + 1]]) / (len(window) - 1)
    assert float(scores.next_token_loss(model, window)) == pytest.approx(expected, rel=1e-5)


def test_gradients_leave_the_model_as_it_was():
    model = build(MODELS["hybrid"])
    model.layers[0].mixer.D.requires_grad_(True)
    before = {n: (p.clone(), p.requires_grad) for n, p in model.named_parameters()}
    scores.gradients(model, context(MODELS["hybrid"]))
    for name, parameter in model.named_parameters():
        value, trained = before[name]
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == trained
        assert parameter.grad is None
        assert not parameter._post_accumulate_grad_hooks


def test_gradients_are_asked_for_once_and_kept_small():
    model = build(MODELS["hybrid"])
    kept, keys = {}, []

    def share(key, compute):
        keys.append(dict(key))
        if not kept:
            kept.update(compute())
        return kept

    shared = context(MODELS["hybrid"], share=share)
    fisher = scores.of_units(model, {0: "n"}, score="fisher", context=shared)
    # What is shared serves every score, layer and axis: no window is looked at again.
    without = MethodContext(seed=0, calibration=None, share=share)
    taylor = scores.of_units(model, {0: "p", 1: "g"}, score="taylor", context=without)
    alone = context(MODELS["hybrid"])
    for found, axes, score in ((fisher, {0: "n"}, "fisher"), (taylor, {0: "p", 1: "g"}, "taylor")):
        for layer, expected in scores.of_units(model, axes, score=score, context=alone).items():
            assert torch.equal(found[layer], expected)
    assert keys == [{"statistics": "gradients", "version": scores.VERSION}] * 2
    assert all(t.dim() == 1 and t.dtype == torch.float32 for t in kept.values())


def test_no_gradient_of_a_whole_model_is_ever_held():
    """Each is reduced and freed when it comes, so that a large model needs no second copy."""
    model = build(MODELS["grouped"])
    held = []
    reduce = scores._reduce

    def watched(parameter, **rest):
        held.append(sum(p.grad is not None for p in model.parameters()))
        reduce(parameter, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "_reduce", watched)
        scores.gradients(model, context(MODELS["grouped"]))
    assert set(held) == {1}
    assert len(held) == 3 * 4


def test_random_scores_come_from_the_seed_alone():
    model = build(MODELS["hybrid"])
    axes = {0: "n", 1: "g"}

    def draw(seed):
        empty = MethodContext(seed=seed, calibration=None)
        return scores.of_units(model, axes, score="random", context=empty)

    first, again, other = draw(1), draw(1), draw(2)
    for layer in axes:
        assert torch.equal(first[layer], again[layer])
        assert not torch.equal(first[layer], other[layer])


def test_magnitude_needs_nothing():
    empty = MethodContext(seed=0, calibration=None)
    found = scores.of_units(build(MODELS["mamba"]), {0: "p"}, score="magnitude", context=empty)
    assert found[0].shape == (1, 1, 48)


@pytest.mark.parametrize(
    ("score", "needs"),
    [("fisher", {"calibration"}), ("taylor", {"calibration"}), ("random", {"seed"})],
)
def test_a_score_says_what_it_needs(score, needs):
    assert scores.needs(score) == needs
    assert scores.needs("magnitude") == set()


def test_calibration_that_cannot_be_used_is_refused():
    model = build(MODELS["mamba2"])
    with pytest.raises(MethodError, match="found no calibration text"):
        scores.gradients(model, MethodContext(seed=0, calibration=None))
    for shape in ((3, 1), (0, 8)):
        short = MethodContext(seed=0, calibration=torch.zeros(shape, dtype=torch.long))
        with pytest.raises(MethodError, match=f"found {shape[0]} calibration windows of"):
            scores.gradients(model, short)


def test_values_that_are_not_finite_are_named():
    model = build(MODELS["mamba2"])
    weight = model.layers[1].mixer.in_proj.weight
    weight[3, 4] = float("nan")
    with pytest.raises(NumericalError, match=r"layer 1, in_proj.weight: found a weight"):
        scores.of_units(model, {0: "n"}, score="magnitude", context=context(MODELS["mamba2"]))
    with pytest.raises(NumericalError, match="calibration window 0: found a loss of nan"):
        scores.gradients(model, context(MODELS["mamba2"]))


def test_a_gradient_that_overflows_is_named():
    model = build(MODELS["mamba2"])
    # Logits of 1e30 still have a finite loss; the squares of such gradients are not.
    model.norm_f.weight.mul_(1e30)
    with pytest.raises(NumericalError, match=r"layer 0, in_proj.weight: found a gradient"):
        scores.gradients(model, context(MODELS["mamba2"]))


@pytest.mark.parametrize("name", ["one_group", "phi_mamba", "mamba"])
def test_the_naive_mixer_is_the_mixer(name):
    """Whoever compares with it should know that it says the same when everything is alive."""
    model = build(MODELS[name])
    sizes, mixer = MODELS[name].layers[0].mixer, model.layers[0].mixer
    u = torch.randn(9, model.description.d_model, generator=torch.Generator().manual_seed(0))
    assert_same(mixed(model, 0, u), naive(sizes, mixer.state_dict(), u, Alive(sizes)))
