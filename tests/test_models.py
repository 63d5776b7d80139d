"""The decoder: every family's tiny model, forks, continuations, ragged rows."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from ssmbench import plugins
from ssmbench.models import flops
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest
from ssmbench.models.initialise import initialise

FAMILIES = plugins.names("family")
# Two layers of float32: a fork regroups the sums of a chunk, which moves the last digits.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def tiny(family: str, seed: int = 0) -> Decoder:
    model = Decoder(plugins.load("family", family).tiny())
    initialise(model, seed=seed)
    return model.eval().requires_grad_(False)


def tokens(b: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 61, (b, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request) -> Decoder:
    return tiny(request.param)


def test_logits_are_causal(model):
    ids = tokens(1, 30)
    changed = ids.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 61
    before, after = model(ids), model(changed)
    assert_close(before[:, :20], after[:, :20], **CLOSE)
    assert not torch.allclose(before[:, 20:], after[:, 20:], atol=1e-3)


@pytest.mark.parametrize("cuts", [(1, 1, 28), (29, 1), (7, 16, 7), (15, 15)])
def test_continuing_from_the_state_equals_one_pass(model, cuts):
    ids = tokens(3, 30)
    state, outputs = None, []
    for part in ids.split(list(cuts), dim=1):
        hidden, state = model.hidden(Forest.batch(part), state)
        outputs.append(model.logits(hidden).view(3, part.shape[1], -1))
    assert_close(torch.cat(outputs, 1), model(ids), **CLOSE)


def test_ragged_rows_equal_each_row_alone(model):
    rows = [tokens(1, n, seed=n)[0].tolist() for n in (9, 1, 70, 33)]
    hidden, state = model.hidden(Forest.ragged(rows))
    parts = model.logits(hidden).split([len(r) for r in rows])
    for i, (row, part) in enumerate(zip(rows, parts, strict=True)):
        ids = torch.tensor([row])
        assert_close(part, model(ids)[0], **CLOSE)
        # What follows a short row must not have seen the padding behind it.
        following, _ = model.hidden(Forest.batch(tokens(1, 5)), state.select(torch.tensor([i])))
        whole, _ = model.hidden(Forest.batch(torch.cat([ids, tokens(1, 5)], 1)))
        assert_close(following, whole[-5:], **CLOSE)


def test_a_fork_equals_rerunning_the_context(model):
    prefixes = [tokens(1, n, seed=n)[0].tolist() for n in (40, 3, 17)]
    suffixes = [tokens(1, n, seed=90 + n)[0].tolist() for n in (6, 1, 13, 2)]
    parents = [0, 0, 2, 1]
    hidden, _ = model.hidden(Forest.fork(prefixes, [*suffixes, []], [*parents, 2]))
    parts = hidden.split([len(s) for s in (*prefixes, *suffixes)])
    for suffix, parent, part in zip(suffixes, parents, parts[3:], strict=True):
        whole, _ = model.hidden(Forest.ragged([prefixes[parent] + suffix]))
        assert_close(part, whole[len(prefixes[parent]) :], **CLOSE)
    for prefix, part in zip(prefixes, parts[:3], strict=True):
        assert_close(part, model.hidden(Forest.ragged([prefix]))[0], **CLOSE)


def test_parameters_are_counted_exactly(model):
    assert flops.parameters(model.description).model == sum(p.numel() for p in model.parameters())


def test_state_bytes_are_counted_exactly(model):
    _, state = model.hidden(Forest.batch(tokens(1, 30)))
    lengths = sum(t.element_size() for layer in state.layers for t in layer[2:])
    assert flops.state_bytes(model.description, tokens=30) == state.n_bytes - lengths


def test_flops_of_products_agree_with_torchs_counter(model):
    from torch.utils.flop_counter import FlopCounterMode

    description = model.description
    with FlopCounterMode(display=False) as counter:
        model(tokens(1, 32))
    linear = sum(
        2 * 32 * m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)
    )
    counted = counter.get_total_flops()
    # torch sees products only; the formula adds scans, norms and gates, never less.
    assert linear <= counted
    assert linear <= flops.forward_flops(description, tokens=32) <= 3 * counted


PUBLISHED = {
    # name: (family, d_model, layers, parameters), from the checkpoints' own headers.
    "mamba-130m": ("mamba", 768, 24, 129_135_360),
    "mamba-2.8b": ("mamba", 2560, 64, 2_768_345_600),
    "mamba2-130m": ("mamba2", 768, 24, 128_989_632),
    "mamba2-2.7b": ("mamba2", 2560, 64, 2_702_599_680),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_come_out_of_published_configs(name):
    family, d_model, n_layer, expected = PUBLISHED[name]
    layer, pad = ("Mamba2", 16) if family == "mamba2" else ("Mamba1", 8)
    config = {"d_model": d_model, "n_layer": n_layer, "vocab_size": 50277}
    config |= {"ssm_cfg": {"layer": layer}, "pad_vocab_size_multiple": pad}
    description = plugins.load("family", family).describe({"config.json": config}, name)
    assert flops.parameters(description).model == expected


def test_flops_equal_the_papers_accounting():
    # Simba's accounting, prompt 1000 and answer 10, all positions through the head: 264.187 GFLOPs
    # for mamba-130m and 284.9 for mamba2-130m.
    for family, pad, expected in (("mamba", 8, 264.187), ("mamba2", 16, 284.9)):
        layer = {"layer": family.capitalize()} if family == "mamba2" else {}
        config = {"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": layer}
        config |= {"pad_vocab_size_multiple": pad}
        description = plugins.load("family", family).describe({"config.json": config}, "x")
        assert flops.forward_flops(description, tokens=1010) / 1e9 == pytest.approx(
            expected, rel=3e-4
        )
