"""Decoding on buffers: the same tokens, logits and states, and what a CUDA graph would capture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import stand_ins
import torch
from graph_helpers import Graphs
from surgery_helpers import of
from token_helpers import MODELS, build

from ssmbench.kernels import backends, on_mamba_ssm
from ssmbench.models import decoding
from ssmbench.models import description as d
from ssmbench.models.forest import Forest

CPU = torch.device("cpu")
# Layers of several sizes, as pruning leaves them, one without a mixer, and one with an MLP.
UNEVEN = of(
    "mamba2",
    d.Layer(d.SSD(4, 6, 8, n_groups=1, norm_groups=1), d.Norm()),
    d.Layer(d.SSD(3, 10, 5, n_groups=3, norm_groups=3), d.Norm()),
    d.Layer(None, d.Norm(), d.MLP("swiglu", 40, bias=False)),
    d.Layer(d.SSD(8, 6, 4, n_groups=4, norm_groups=4, in_bias=True), d.Norm()),
)
PURE = {name: MODELS[name] for name in ("mamba", "mamba2", "phi_mamba", "smol_mamba", "grouped")}
PURE |= {"uneven": UNEVEN}
ALIGNED = of("mamba2", *[d.Layer(d.SSD(2, 16, 16, n_groups=1, norm_groups=1), d.Norm())] * 2)


def begun(model, rows=((3, 1, 4, 1), (5, 9, 2, 6), (2, 7, 1, 8))):
    """Read prompts; give the state and the tokens that follow."""
    ids = torch.tensor(rows)
    with torch.inference_mode():
        hidden, state = model.hidden(Forest.batch(ids))
        token = model.logits(hidden.view(*ids.shape, -1)[:, -1]).argmax(-1)
    return token, state


def plain(model, token, state, n):
    """Give tokens, logits and the last state of n plain steps."""
    said = []
    with torch.inference_mode():
        for _ in range(n):
            hidden, state = model.hidden(Forest.batch(token[:, None]), state)
            logits = model.logits(hidden)
            token = logits.argmax(-1)
            said.append((token, logits))
    return said, state


def same(said, state, expected):
    others, after = expected
    for (token, logits), (other, its) in zip(said, others, strict=True):
        assert torch.equal(token, other)
        assert torch.equal(logits, its)
    for layer, its in zip(state.layers, after.layers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(layer, its, strict=True))


def taken(steps, advance, n):
    said = []
    for _ in range(n):
        advance()
        said.append((steps.token.clone(), steps.logits.clone()))
    return said


@pytest.mark.parametrize("family", PURE)
def test_steps_on_buffers_are_the_plain_steps_bit_by_bit(family):
    model = build(PURE[family])
    token, state = begun(model)
    copies = [[t.clone() for t in layer] for layer in state.layers]
    steps = decoding.Steps(model, token, state)
    buffers = [t.data_ptr() for layer in steps.state.layers for t in layer]
    said = taken(steps, steps.advance, 12)
    same(said, steps.state, plain(model, token, state, 12))
    assert not torch.equal(said[0][1], said[-1][1])
    assert [t.data_ptr() for layer in steps.state.layers for t in layer] == buffers
    # What was continued is as it was, and can be continued again.
    for layer, before in zip(state.layers, copies, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(layer, before, strict=True))
    steps.restart(token, state)
    same(taken(steps, steps.advance, 3), steps.state, plain(model, token, state, 3))


@pytest.mark.parametrize("backend", ["mamba_ssm", "triton"])
@pytest.mark.parametrize("family", ["mamba", "aligned", "uneven"])
def test_a_backend_writes_into_the_buffers(backend, family, monkeypatch):
    if backend == "triton":
        pytest.importorskip("triton", reason="triton is not installed: it is for Linux alone")
    monkeypatch.setattr(on_mamba_ssm, "_function", lambda _, name: stand_ins.FUNCTIONS[name])
    able = dict.fromkeys(backends.OFFERS[backend], backend)
    monkeypatch.setattr(backends, "_chosen", lambda name, *_: backends.Choice(name, "cpu", able))
    description = ALIGNED if family == "aligned" else PURE[family]
    model = build(replace(description, layers=description.layers[:2]))
    copied = []
    real = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda a, b: (copied.append(len(a)), real(a, b)))
    with backends.using(backend):
        token, state = begun(model)
        expected = plain(model, token, state, 3)
        steps = decoding.Steps(model, token, state)
        copied.clear()
        same(taken(steps, steps.advance, 3), steps.state, expected)
    # Of each step a token and two layers' tails; states only where they are not written into:
    # upstream's sizes are multiples of 16, and its selective scan begins at zero.
    copies = backend == "mamba_ssm" and family != "aligned"
    assert sum(copied) == 3 * (5 if copies else 3)


def test_attention_and_processors_are_refused_with_a_reason(monkeypatch):
    hybrid, pure = build(MODELS["hybrid"]), build(MODELS["mamba"])
    assert decoding.why_not(pure) == "it runs on a processor"
    token, state = begun(hybrid)
    with pytest.raises(ValueError, match="a state that grows with tokens"):
        decoding.Steps(hybrid, token, state)
    monkeypatch.setattr(type(pure), "device", property(lambda _: torch.device("cuda")))
    assert decoding.why_not(pure) is None
    reason = "the keys of attention grow with every token (layer 1, 3, 4)"
    assert decoding.why_not(hybrid) == reason
    linear = torch.nn.Linear(16, 16)
    pure.layers[0].mixer.out_proj = decoding.SparseLinear(linear, lambda weight: weight)
    assert decoding.why_not(pure) == "2:4 products have not been captured yet"


@pytest.fixture
def graphs(monkeypatch):
    return Graphs(monkeypatch)


@pytest.mark.parametrize("family", PURE)
def test_a_captured_step_says_what_plain_steps_say(graphs, family):
    model = build(PURE[family])
    token, state = begun(model)
    steps = decoding.Steps(model, token, state)
    replay = decoding.captured(steps.advance, CPU)
    steps.restart(token, state)
    graphs.told.clear()
    said = taken(steps, replay, 8)
    same(said, steps.state, plain(model, token, state, 8))
    assert graphs.told == ["replay"] * 8


def test_it_warms_up_before_the_capture_and_the_streams_wait_for_one_another(graphs):
    def work():
        graphs.told.append("work")
        return torch.ones(2)

    replay = decoding.captured(work, CPU)
    told = ["side > main", "enter", *["work"] * 3, "begin", "work", "end", "leave", "main > side"]
    assert graphs.told == told
    assert torch.equal(replay(), torch.ones(2))
    # The very result, not a new one.
    assert replay() is replay()


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.ones(2).sum().item(),
        lambda: bool((torch.ones(2) > 0).all()),
        lambda: torch.tensor([1, 2]),
        lambda: torch.arange(3)[torch.arange(3) > 1],
    ],
    ids=["reads", "asks", "brings", "selects"],
)
@pytest.mark.parametrize("inference", [False, True])
def test_what_asks_the_device_is_refused_and_the_stream_is_left(graphs, work, inference):
    reason = "it could not be captured: operation not permitted when stream is capturing"
    with torch.inference_mode(inference), pytest.raises(decoding.CaptureError) as caught:
        decoding.captured(work, CPU)
    assert str(caught.value) == reason
    assert graphs.told[-1] == "leave"


def test_attention_as_it_is_could_not_be_captured(graphs):
    """Why it is refused beforehand, besides its growth."""
    model = build(MODELS["hybrid"])
    token, state = begun(model)

    def work():
        with torch.inference_mode():
            return model.hidden(Forest.batch(token[:, None]), state)

    with pytest.raises(decoding.CaptureError):
        decoding.captured(work, CPU)


def test_a_full_memory_is_told_as_such(graphs):
    calls = []

    def work():
        calls.append(1)
        if len(calls) > decoding.WARM_UPS:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        decoding.captured(work, CPU)
