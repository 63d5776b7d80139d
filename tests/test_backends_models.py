"""Whole models on other backends: ragged, forked, continued and thinned rows as on torch's.

Our Triton kernels are interpreted; the published ones are stand-ins.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import stand_ins
import torch
from token_helpers import MODELS, answered, build, drawn, prompts, reduce
from torch.testing import assert_close

from ssmbench.kernels import backends, on_mamba_ssm
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest

CLOSE = {"rtol": 2e-4, "atol": 2e-5}
# Interpreted kernels take milliseconds a position.
SHALLOW = {
    name: replace(description, layers=description.layers[:2])
    for name, description in MODELS.items()
}
ROWS = drawn(5, 1, 4)
ANSWERS = drawn(2, 1, seed=1)


@pytest.fixture(params=["mamba_ssm", "triton"])
def backend(request, monkeypatch) -> str:
    """A backend that computes all it offers, here on the CPU."""
    if request.param == "triton":
        pytest.importorskip("triton", reason="triton is not installed: it is for Linux alone")
    monkeypatch.setattr(on_mamba_ssm, "_function", lambda _, name: stand_ins.FUNCTIONS[name])
    able = dict.fromkeys(backends.OFFERS[request.param], request.param)
    monkeypatch.setattr(backends, "_chosen", lambda name, *_: backends.Choice(name, "cpu", able))
    return request.param


@pytest.mark.parametrize("family", ["mamba", "mamba2", "phi_mamba", "grouped", "hybrid"])
def test_a_model_gives_the_same_on_another_backend(backend, family):
    model = build(SHALLOW[family])
    forest = Forest.fork(ROWS, ANSWERS, [0, 2])
    following = Forest.batch(torch.tensor(drawn(2, seed=2)).T.contiguous())

    def both():
        hidden, state = model.hidden(forest)
        then, _ = model.hidden(following, state)
        return torch.cat([hidden, then])

    expected = both()
    with backends.using(backend), backends.recording() as record:
        found = both()
    assert_close(found, expected, **CLOSE)
    scan = "selective_scan" if family == "mamba" else "ssd"
    others = "gate" if family in ("mamba", "phi_mamba") else "gated_norm"
    rest = "torch" if backend == "mamba_ssm" else backend
    each = f"{scan}: {backend}, causal_conv: {backend}, {others}: {rest}"
    assert record.text == (backend if backend == "triton" else each)


@pytest.mark.parametrize("site", ["after_mixer", "before_scan"])
@pytest.mark.parametrize("family", ["mamba", "grouped"])
def test_a_model_drops_the_same_tokens_on_another_backend(backend, family, site):
    model = reduce(build(SHALLOW[family]), site=site, criterion="influence")
    forest = answered(ROWS, ANSWERS, [0, 2])
    expected, _ = model.hidden(forest)
    with backends.using(backend), backends.recording() as record:
        found, _ = model.hidden(forest)
    assert_close(found, expected, equal_nan=True, **CLOSE)
    assert found[: sum(map(len, ROWS))].isnan().any()
    scored = "selective_scan_influence" if family == "mamba" else "ssd_influence"
    assert (f"{scored}: torch" in record.text) == (backend == "mamba_ssm")


def test_a_half_precision_model_hands_over_what_it_stores(backend):
    model = build(SHALLOW["mamba2"]).bfloat16()
    forest = prompts(*ROWS)
    expected, _ = model.hidden(forest)
    with backends.using(backend), backends.recording() as record:
        found, state = model.hidden(forest)
    # Other roundings of the convolution's output, six layers deep.
    assert (found - expected).float().abs().max() < 0.05 * expected.float().abs().max()
    assert backend in record.text
    assert all(layer[1].dtype == torch.float32 for layer in state.layers)


def test_a_model_learns_where_a_backend_has_no_backward_pass():
    """Whatever is named: a gradient comes from who has one."""
    model = build(SHALLOW["mamba2"]).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_mamba_ssm, "_function", lambda *_: pytest.fail("not taken"))
        able = dict.fromkeys(backends.OFFERS["triton"], "triton")
        patch.setattr(backends, "_chosen", lambda name, *_: backends.Choice(name, "cpu", able))
        with backends.using("triton"), backends.recording() as record:
            model.hidden(prompts(*ROWS))[0].square().sum().backward()
    assert record.text == "torch"
    assert all(p.grad is not None for p in model.layers[0].mixer.parameters())


@pytest.mark.parametrize("family", ["mamba", "mamba2", "phi_mamba", "grouped"])
def test_a_decoding_step_reads_nothing_back_from_the_device(family):
    """What a CUDA graph could not capture has no value on the meta device, and fails there."""
    model = Decoder(MODELS[family]).to("meta").requires_grad_(False)
    token = torch.zeros(3, 1, dtype=torch.long, device="meta")
    state = None
    for _ in range(2):
        hidden, state = model.hidden(Forest.batch(token), state)
        token = model.logits(hidden).argmax(-1)[:, None]
    assert token.shape == (3, 1)
