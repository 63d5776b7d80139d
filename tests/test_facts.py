"""What a compressed model is, in numbers: exact, and as the paper rounds it."""

from __future__ import annotations

import dataclasses

import pytest

from ssmbench import plugins
from ssmbench.models import flops
from ssmbench.models.decoder import Decoder
from ssmbench.models.initialise import initialise
from ssmbench.store.columns import CELLS
from ssmbench.surgery import axes, facts
from ssmbench.surgery.facts import paper_percent


def tiny(family: str) -> Decoder:
    model = Decoder(plugins.load("family", family).tiny())
    initialise(model, seed=0)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("after", "percent"),
    [(505_676_544, 0), (455_222_016, 10), (404_767_488, 20), (354_312_960, 30)],
)
def test_comp_is_rounded_as_in_the_paper(after, percent):
    """Phi-Mamba with 0, 25, 50 and 75 % of its states removed; the paper prints 10 and 20."""
    assert paper_percent(505_676_544, after) == percent


def test_comp_is_rounded_in_whole_numbers():
    assert 100 * (29 / 100) < 29  # in floating point one percent more would be gone
    assert paper_percent(100, 29) == 71
    assert paper_percent(3, 2) == 34
    assert paper_percent(3, 0) == 100
    assert paper_percent(0, 0) is None


@pytest.mark.parametrize("family", plugins.names("family"))
def test_a_model_as_it_is_has_lost_nothing(family):
    model = tiny(family)
    found = facts.measure(model, model.description)
    has_mixers = found["params_mixer"] > 0
    assert found["compression_model"] == 0
    assert found["compression_mixer"] == (0 if has_mixers else None)
    assert found["compression_paper_percent"] == (0 if has_mixers else None)
    assert found["params_model"] == sum(p.numel() for p in model.parameters())
    assert found["state_bytes"] == found["state_bytes_dense"] > 0


@pytest.mark.parametrize("family", ["mamba2", "phi_mamba", "hybrid_llama"])
def test_a_layer_without_a_mixer_counts_as_nothing(family):
    model = tiny(family)
    dense = model.description
    layer = next(i for i, spec in enumerate(dense.layers) if flops.parameters(only(dense, i)).mixer)
    gone = sum(p.numel() for p in model.layers[layer].get_submodule("mixer").parameters())
    axes.remove_mixer(model, layer)
    found = facts.measure(model, dense)
    assert found["params_mixer_dense"] - found["params_mixer"] == gone > 0
    assert found["compression_mixer"] == pytest.approx(gone / found["params_mixer_dense"])
    assert found["nonzero_mixer"] <= found["params_mixer"]
    assert found["params_model"] == sum(p.numel() for p in model.parameters())
    assert found["state_bytes"] < found["state_bytes_dense"]


def only(description, layer):
    return dataclasses.replace(description, layers=(description.layers[layer],))


def test_every_fact_is_a_column():
    model = tiny("mamba2")
    names = set(facts.measure(model, model.description))
    assert names <= {column.name for column in CELLS}
