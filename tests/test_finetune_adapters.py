"""Adapters act wherever they are put, learn, and leave nothing but changed weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from finetune_helpers import dense, fine_tuned, noisy, pruned, recipe, windows
from surgery_helpers import MODELS
from torch.func import functional_call

from ssmbench.errors import MethodError
from ssmbench.finetune import adapters
from ssmbench.finetune.losses import naive_kd_loss
from ssmbench.models import checkpoint
from ssmbench.models.description import Attention
from ssmbench.models.mixers import SSDMixer
from ssmbench.surgery.projections import projections

TARGETS = ("all", "mixers", "mlps")


def has_targets(name: str, targets: str) -> bool:
    layers = MODELS[name].layers
    mixers = any(x.mixer and not isinstance(x.mixer, Attention) for x in layers)
    mlps = any(x.mlp for x in layers)
    return {"mixers": mixers, "mlps": mlps, "all": mixers or mlps}[targets]


CASES = [(name, t) for name in MODELS for t in TARGETS if has_targets(name, t)]
FAMILIES = {"mamba", "mamba2", "phi_mamba", "smol_mamba", "hybrid_llama", "llama", "gpt_neox"}


def attached(model, targets: str = "all", *, keep_zeros: bool = False, seed: int = 0, **values):
    return adapters.attach(
        model, recipe(targets=targets, **values), seed=seed, keep_zeros=keep_zeros
    )


def fill(trained) -> None:
    """Give B numbers, as training does."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in trained.items():
            if name.endswith(".B"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def loss_of(model, teacher, ids):
    return naive_kd_loss(model(ids), teacher(ids), None)


def test_every_family_is_among_the_cases():
    assert {name for name, _ in CASES} >= FAMILIES
    assert {n for n, t in CASES if t == "mixers"} >= FAMILIES - {"llama", "gpt_neox"}


@pytest.mark.parametrize(("name", "targets"), CASES)
def test_the_gradient_reaches_every_adapter(name, targets):
    model, teacher, ids = noisy(name), dense(name), windows(name).long()
    trained = attached(model, targets)
    expected = adapters.target_names(model, targets)
    assert list(trained) == [f"{n}.{side}" for n in expected for side in "AB"]
    adapters.check_gradients(trained, lambda: loss_of(model.eval(), teacher, ids).backward())
    assert all(p.grad is None for p in trained.values())
    assert not any(p.any() for n, p in trained.items() if n.endswith(".B"))
    others = {id(p) for p in model.parameters()} - {id(p) for p in trained.values()}
    assert not any(p.requires_grad for p in model.parameters() if id(p) in others)


@pytest.mark.parametrize(("name", "targets"), CASES)
def test_gradients_are_those_of_the_merged_weights(name, targets):
    """The plain twin: one model of weights W + s·B A, differentiated by A and B."""
    model, teacher, ids = noisy(name).double(), dense(name).double(), windows(name, 3).long()
    trained = attached(model, targets)
    fill(trained)
    loss_of(model.eval(), teacher, ids).backward()
    plain = noisy(name).double()
    leaves = {n: p.detach().clone().requires_grad_() for n, p in trained.items()}
    weights = dict(plain.named_parameters())
    for n in adapters.target_names(plain, targets):
        change = leaves[f"{n}.B"] @ leaves[f"{n}.A"] * (4.0 / 2)
        weights[f"{n}.weight"] = weights[f"{n}.weight"] + change
    logits = functional_call(plain, weights, (ids,))
    naive_kd_loss(logits, teacher(ids), None).backward()
    for n, leaf in leaves.items():
        found, expected = trained[n].grad, leaf.grad
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max(), n


WHOLE = SSDMixer.forward


class Bypassing:
    """in_proj's weight without its adapters."""

    def __init__(self, module) -> None:
        self.module = module

    def __call__(self, x):
        return F.linear(x, self.module.weight, self.module.bias)


def test_a_mixer_that_goes_round_its_projection_is_caught_and_named(monkeypatch):
    def forward(self, u, *rest):
        kept = self._modules.pop("in_proj")
        object.__setattr__(self, "in_proj", Bypassing(kept))
        try:
            return WHOLE(self, u, *rest)
        finally:
            object.__delattr__(self, "in_proj")
            self._modules["in_proj"] = kept

    monkeypatch.setattr(SSDMixer, "forward", forward)
    with pytest.raises(MethodError, match=r"4 of 8 trained tensors would not learn") as e:
        fine_tuned(noisy(), recipe())
    for layer in (0, 1):
        for side in "AB":
            assert f"layers.{layer}.mixer.in_proj.{side}: no gradient" in str(e.value)
    assert "out_proj" not in str(e.value)


@pytest.mark.parametrize(
    ("factor", "why"), [(0.0, "a gradient of zero"), (math.nan, "a gradient that is not finite")]
)
def test_a_gradient_of_nothing_or_not_a_number_is_named(factor, why):
    model, teacher, ids = noisy(), dense(), windows().long()
    trained = attached(model)

    def backward() -> None:
        (loss_of(model, teacher, ids) * factor).backward()

    with pytest.raises(MethodError) as e:
        adapters.check_gradients(trained, backward)
    assert str(e.value).count(why) == len(trained)


@pytest.mark.parametrize("name", MODELS)
def test_where_every_weight_trains_every_weight_gets_a_gradient(name):
    model, teacher, ids = noisy(name), dense(name), windows(name).long()
    trained = adapters.attach(model, recipe(adapters="all"), seed=0, keep_zeros=False)
    assert set(trained) == {n for n, _ in model.named_parameters()}
    adapters.check_gradients(trained, lambda: loss_of(model, teacher, ids).backward())


@pytest.mark.parametrize(("name", "targets"), CASES)
@pytest.mark.parametrize("keep_zeros", [False, True])
def test_merging_changes_no_output_and_leaves_a_plain_model(name, targets, keep_zeros, tmp_path):
    model, ids = pruned(name), windows(name, 3).long()
    before = {n: (type(m), m.training) for n, m in model.named_modules()}
    zeros = {p.where: p.module.weight == 0 for p in projections(model, "both", "all")}
    trained = attached(model, targets, keep_zeros=keep_zeros)
    fill(trained)
    with torch.no_grad():
        expected = model.eval()(ids)
    tensors = {n: p.detach().clone() for n, p in trained.items()}
    adapters.detach(model)
    with torch.no_grad():
        assert not torch.equal(model(ids), expected)
        adapters.merge(model, recipe(targets=targets), tensors, keep_zeros=keep_zeros)
        assert (model(ids) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert {n: (type(m), m.training) for n, m in model.named_modules()} == before
    assert set(vars(model)) == set(vars(dense(name)))
    assert not any(type(m).__module__.startswith("peft") for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for p in projections(model, "both", "all"):
        if p.where in adapters.target_names(model, targets):
            assert torch.equal(p.module.weight == 0, zeros[p.where]) == keep_zeros
    checkpoint.save(model, tmp_path / "saved", layout="ssmbench")
    again = checkpoint.load(str(tmp_path / "saved"))
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }
    assert torch.equal(again(ids), model(ids))


def test_adapters_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = attached(noisy(), seed=5)
    torch.manual_seed(2)
    second, other = attached(noisy(), seed=5), attached(noisy(), seed=6)
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert not any(torch.equal(first[n], other[n]) for n in first if n.endswith(".A"))
    a = first["layers.0.mixer.in_proj.A"]
    assert 0.8 / math.sqrt(a.shape[1]) < a.abs().max() <= 1 / math.sqrt(a.shape[1])


@pytest.mark.parametrize(("name", "targets"), [("mamba2", "mlps"), ("llama", "mixers")])
def test_a_model_without_such_projections_is_refused(name, targets):
    with pytest.raises(MethodError, match=f"`targets: {targets}`; expected SSM mixers or MLPs"):
        attached(noisy(name), targets)


def test_adapters_of_a_half_precision_model_are_float32_and_act():
    model, ids = noisy().bfloat16(), windows().long()
    plain = model(ids)
    trained = attached(model)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert torch.equal(model.eval()(ids), plain)
    fill(trained)
    expected = model(ids)
    tensors = {n: p.detach().clone() for n, p in trained.items()}
    adapters.detach(model)
    adapters.merge(model, recipe(), tensors, keep_zeros=False)
    assert model.embedding.weight.dtype == torch.bfloat16
    assert (model(ids) - expected).abs().max() < 0.1 * (plain - expected).abs().max()
