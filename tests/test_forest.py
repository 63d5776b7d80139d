"""Random trees of tokens, of every family: what runs together is what each row gives alone."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssmbench import plugins
from ssmbench.models import description as d
from ssmbench.models import rows as rows_of_stages
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest, Stage
from ssmbench.models.initialise import initialise
from ssmbench.models.state import join, select

FAMILIES = plugins.names("family")
# Hidden vectors are normed, of size 1. Products of another number of tokens add up in another
# order, which moves the last digits: float32's, or bfloat16's after several layers.
CLOSE = {
    torch.float32: {"rtol": 1e-4, "atol": 2e-5},
    torch.bfloat16: {"rtol": 0.05, "atol": 0.1},
}

rows = st.lists(st.integers(0, 60), max_size=90).map(tuple)


@st.composite
def forks(draw):
    """Draw prefixes, suffixes that may be empty, and which prefix each suffix continues."""
    prefixes = draw(st.lists(rows.filter(len), min_size=1, max_size=4))
    suffixes = draw(st.lists(rows, min_size=1, max_size=6).filter(any))
    last = st.integers(0, len(prefixes) - 1)
    return prefixes, suffixes, [draw(last) for _ in suffixes]


def uneven(description: d.Description) -> d.Description:
    """Give every second layer other sizes, as pruning does."""
    layers = list(description.layers)
    for i in range(1, len(layers), 2):
        mixer = layers[i].mixer
        match mixer:
            case d.SSD():
                sizes = {"n_heads": 3 * mixer.n_groups, "d_state": mixer.d_state + 3}
                mixer = dataclasses.replace(mixer, **sizes, head_dim=mixer.head_dim - 1)
            case d.SelectiveScan():
                sizes = {"d_inner": mixer.d_inner - 3, "d_state": 5, "dt_rank": 3}
                mixer = dataclasses.replace(mixer, **sizes)
            case d.Attention():
                mixer = dataclasses.replace(mixer, n_heads=3 * mixer.n_kv_heads)
        layers[i] = dataclasses.replace(layers[i], mixer=mixer)
    return dataclasses.replace(description, layers=tuple(layers))


@pytest.fixture(
    scope="module",
    params=[(family, dtype) for family in FAMILIES for dtype in CLOSE],
    ids=lambda p: f"{p[0]}-{p[1]}".replace("torch.", ""),
)
def model(request) -> Decoder:
    family, dtype = request.param
    made = Decoder(uneven(plugins.load("family", family).tiny()))
    initialise(made, seed=0)
    return made.eval().requires_grad_(False).to(dtype)


@settings(max_examples=30, deadline=None)
@given(fork=forks(), cost=st.sampled_from([0, 1 << 9, 1 << 30]))
def test_a_row_of_a_tree_gives_what_it_gives_alone(model, fork, cost):
    prefixes, suffixes, parents = fork
    close = CLOSE[model.embedding.weight.dtype]
    with mock.patch.object(rows_of_stages, "PART_ELEMENTS", cost), torch.inference_mode():
        forest = Forest.fork(prefixes, suffixes, parents)
        ending, _ = model.hidden(forest, keep_state=False)
        hidden, state = model.hidden(forest)
        assert_close(ending, hidden, rtol=0, atol=0)
        parts = hidden.split([len(row) for row in (*prefixes, *suffixes)])
        for i, (suffix, parent) in enumerate(zip(suffixes, parents, strict=True)):
            whole, after = model.hidden(Forest.ragged([prefixes[parent] + suffix]))
            before = len(prefixes[parent])
            assert_close(parts[parent], whole[:before], **close)
            assert_close(parts[len(prefixes) + i], whole[before:], **close)
            # The states are those of the rows, too: what follows is what follows the row alone.
            then = Forest.ragged([[1, 2, 3]])
            expected, _ = model.hidden(then, after)
            found, _ = model.hidden(then, state.select(torch.tensor([i])))
            assert_close(found, expected, **close)


@given(
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=30),
    cost=st.integers(0, 200),
    start=st.integers(0, 5),
)
def test_parts_are_the_stage_and_each_saves_its_cost(lengths, cost, start):
    parents = torch.arange(len(lengths))
    stage = Stage(tuple(lengths), start, parents, torch.device("cpu"))
    parts = stage.parts(cost)
    flat = torch.arange(start + sum(lengths) + 3)
    own = flat[start : start + sum(lengths)]
    assert torch.equal(torch.cat([part.flat(part.rows(flat)) for _, part in parts]), own)
    assert torch.equal(torch.cat([part.parents for _, part in parts]), parents)
    assert [i for rows, _ in parts for i in range(*rows.indices(len(lengths)))] == list(parents)
    run = sum(len(part.lengths) * part.length for _, part in parts)
    assert run + cost * (len(parts) - 1) <= len(lengths) * stage.length


def test_rows_of_one_length_are_never_parted():
    stage = Stage((7,) * 5, 0, None, torch.device("cpu"))
    assert stage.parts(0) == [(slice(0, 5), stage)]


def test_sorted_rows_of_two_lengths_are_two_parts():
    stage = Stage((40,) * 3 + (5,) * 9, 0, None, torch.device("cpu"))
    assert [part.lengths for _, part in stage.parts(100)] == [(40,) * 3, (5,) * 9]
    assert len(stage.parts(9 * 35)) == 1


def test_joined_states_keep_their_values_and_their_order_of_memory():
    states = [(torch.randn(n, 4, 5).transpose(1, 2), torch.randn(n, 3)) for n in (2, 1, 3)]
    joined = join(states)
    assert joined[0].stride() == (20, 1, 5)
    for i, whole in enumerate(joined):
        assert torch.equal(whole, torch.cat([state[i] for state in states]))
    assert_close(select(joined, torch.tensor([2]))[0], states[1][0], rtol=0, atol=0)
