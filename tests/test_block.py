"""Removal of whole mixers: what goes, in which order, and what is never touched."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from ssmbench import plugins
from ssmbench.errors import MethodError, NumericalError
from ssmbench.methods import block
from ssmbench.models import description as d
from ssmbench.models.decoder import Decoder
from ssmbench.models.initialise import initialise
from ssmbench.surgery import axes
from ssmbench.surgery.context import MethodContext

SSM = d.SSD(4, 4, 5, n_groups=2)
PHI = d.SSD(4, 4, 5, n_groups=4, discrete=True, z_bias=True, norm_groups=0)
ATTENTION = d.Attention(2, 1, 8, 8, bias=False)
MLP = d.MLP("swiglu", 20, bias=False)
# Every residual pattern, with and without an MLP.
LAYERS = (
    d.Layer(SSM, d.Norm()),
    d.Layer(ATTENTION, d.Norm(), MLP),
    d.Layer(PHI, d.Norm("layer"), MLP, "parallel", one_norm=True),
    d.Layer(SSM, d.Norm(), MLP, "parallel"),
    d.Layer(d.SelectiveScan(16, 3, 2), d.Norm(), MLP),
    d.Layer(ATTENTION, d.Norm()),
)
KINDS = {"ssm": [0, 2, 3, 4], "attention": [1, 5], "all": [0, 1, 2, 3, 4, 5]}


def build(layers: tuple[d.Layer, ...] = LAYERS, seed: int = 0) -> Decoder:
    model = Decoder(d.Description("test", 16, 61, layers, d.Norm()))
    initialise(model, seed=seed)
    return model.eval().requires_grad_(False)


def windows(n: int = 5, length: int = 12) -> torch.Tensor:
    return torch.randint(0, 61, (n, length), generator=torch.Generator().manual_seed(1))


def prune(model: Decoder, ratio: float, *, layers="ssm", batch_tokens=24, **more) -> float:
    given = {"calibration": windows(), **more}
    context = MethodContext(0, batch_tokens=batch_tokens, **given)
    return block.compress(model, ratio=ratio, params=block.Params(layers=layers), context=context)


def left(model: Decoder) -> list[int]:
    return [i for i, spec in enumerate(model.description.layers) if spec.mixer is not None]


def whole_nats(model: Decoder) -> float:
    logits = model(windows()[:, :-1]).flatten(0, 1)
    nats = F.cross_entropy(logits, windows()[:, 1:].flatten(), reduction="none")
    return float(nats.double().sum())


def brute_force(model: Decoder, candidates: list[int], rounds: int) -> list[int]:
    """Remove one mixer a round, after whole forward passes of a copy without each candidate."""
    for _ in range(rounds):
        nats = {}
        for i in candidates:
            trial = copy.deepcopy(model)
            axes.remove_mixer(trial, i)
            nats[i] = whole_nats(trial)
        best = min(nats, key=lambda i: nats[i])
        axes.remove_mixer(model, best)
        candidates = [i for i in candidates if i != best]
    return left(model)


@pytest.mark.parametrize("batch_tokens", [1, 24, 1000])
@pytest.mark.parametrize(
    ("layers", "ratio", "rounds"),
    [("ssm", 0.25, 1), ("ssm", 0.8, 3), ("attention", 0.5, 1), ("all", 0.5, 3), ("all", 0.99, 5)],
)
def test_what_goes_is_what_whole_forward_passes_would_choose(layers, ratio, rounds, batch_tokens):
    model, twin = build(), build()
    assert prune(model, ratio, layers=layers, batch_tokens=batch_tokens) == (
        rounds / len(KINDS[layers])
    )
    assert left(model) == brute_force(twin, KINDS[layers], rounds)
    assert model.description == twin.description
    for (name, a), (other, b) in zip(
        model.state_dict().items(), twin.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)


def test_the_nats_are_those_of_whole_forward_passes():
    model = build()
    nats = block.removal_nats(model, windows(), KINDS["all"], batch_tokens=24)
    for i, found in zip(KINDS["all"], nats, strict=True):
        trial = copy.deepcopy(model)
        axes.remove_mixer(trial, i)
        # float32 matrix products of other heights.
        assert found == pytest.approx(whole_nats(trial), rel=1e-6)
    assert len(set(nats)) == len(nats)


def test_evaluating_candidates_leaves_the_model_as_it_was():
    model, dense = build(), build()
    block.removal_nats(model, windows(), KINDS["all"], batch_tokens=24)
    assert [name for name, _ in model.named_parameters()] == [
        n for n, _ in dense.named_parameters()
    ]
    assert torch.equal(model(windows()), dense(windows()))


@pytest.mark.parametrize("layers", KINDS)
def test_removing_equals_masking(layers):
    taken, masked = build(), build()
    prune(taken, 0.5, layers=layers)
    prune(masked, 0.5, layers=layers, remove_mixer=axes.mask_mixer)
    assert left(masked) == KINDS["all"]
    torch.testing.assert_close(taken(windows()), masked(windows()), rtol=1e-6, atol=1e-6)


def test_no_more_positions_run_at_once_than_the_batch_allows():
    model, seen = build(), []
    model.embedding.register_forward_hook(lambda _m, x, _y: seen.append(x[0].numel()))
    block.removal_nats(model, windows(), [0, 3], batch_tokens=24)
    assert seen == [22, 22, 11]


def test_what_comes_before_a_candidate_runs_once():
    model, calls = build(), [0] * len(LAYERS)

    def count(layer):
        def add(*_):
            calls[layer] += 1

        return add

    for i, layer in enumerate(model.layers):
        layer.register_forward_hook(count(i))
    block.removal_nats(model, windows(), [2, 4], batch_tokens=1000)
    assert calls == [1, 1, 2, 2, 3, 3]


def test_on_ties_the_lower_layer_goes():
    model = build((d.Layer(SSM, d.Norm()),) * 4)
    for layer in model.layers:
        layer.mixer.out_proj.weight.zero_()
    prune(model, 0.5)
    assert left(model) == [2, 3]


def test_mixers_removed_before_do_not_count():
    model = build()
    axes.remove_mixer(model, 0)
    assert prune(model, 0.34) == 1 / 3
    assert len(left(model)) == len(LAYERS) - 2


@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_only_mixers_and_their_norms_go(ratio):
    model, dense = build(), build()
    prune(model, ratio)
    parameters = dict(dense.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, parameters.pop(name))
    gone = {i for i in KINDS["ssm"] if i not in left(model)}
    assert len(gone) == 4 * ratio
    assert {name.split(".")[1] for name in parameters} == {str(i) for i in gone}
    assert all(name.split(".")[2] in ("mixer", "norm") for name in parameters)


def test_a_ratio_that_removes_nothing_is_refused():
    with pytest.raises(MethodError, match=r"0 of 4 mixers at ratio 0\.2; .* 0\.25"):
        prune(build(), 0.2)


def test_the_only_mixer_cannot_go():
    with pytest.raises(MethodError, match="found 1 mixers; expected at least 2"):
        prune(build(LAYERS[:1]), 0.5)


def test_a_model_without_such_mixers_is_refused():
    model = Decoder(plugins.load("family", "gpt_neox").tiny())
    with pytest.raises(MethodError, match="gpt_neox: found no SSM mixer"):
        prune(model, 0.5)


def test_windows_without_a_token_to_predict_are_refused():
    with pytest.raises(MethodError, match="windows of 1 token; expected at least 2"):
        prune(build(), 0.5, calibration=windows(length=1))


def test_a_perplexity_that_is_no_number_is_an_error():
    model = build()
    model.layers[4].mlp.fc2.weight.fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"layers\.0: found a perplexity"):
        prune(model, 0.5)
