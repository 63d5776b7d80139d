"""The catalogue: what it says about a model agrees with what is published."""

from __future__ import annotations

import json

import pytest

from ssmbench import plugins
from ssmbench.errors import UnknownName
from ssmbench.grid.catalogue import by_source, catalogue, find
from ssmbench.models.flops import forward_flops, parameters

DESCRIBED = [name for name, known in catalogue().items() if known.config is not None]


@pytest.mark.parametrize("name", DESCRIBED)
def test_parameters_by_formula_are_those_published(name):
    known = find(name)
    description = known.describe()
    assert description.family == known.family
    assert parameters(description).model == known.parameters


def test_flops_agree_with_the_independent_count(shared):
    published = json.loads((shared / "spec" / "simba_flops.json").read_text())
    for name, gflops in published["gflops_all"].items():
        tokens = published["T"] + published["A"]
        ours = forward_flops(find(name).describe(), tokens=tokens)
        assert ours == pytest.approx(gflops[0] * 1e9, rel=1e-9), name


def test_every_model_of_the_issue_is_there():
    sizes = {
        "mamba": ("130m", "370m", "790m", "1.4b", "2.8b"),
        "mamba2": ("130m", "370m", "780m", "1.3b", "2.7b"),
        "pythia": ("160m", "410m", "1b", "1.4b", "2.8b"),
        "zoo-mamba": ("s", "m", "l"),
    }
    names = {f"{family}-{size}" for family, each in sizes.items() for size in each}
    names |= {"zoo-mamba2", "phi-mamba-1.5b", "smol2-mamba-1.9b", "hlm-3b"}
    assert names | {"llama3.2-3b-instruct", "smollm2-1.7b"} <= set(catalogue())


def test_every_model_is_described_without_a_download_or_comes_with_the_package():
    for known in catalogue().values():
        assert known.family in plugins.names("family")
        assert known.is_zoo == (known.describe() is None)


def test_sources_are_distinct():
    assert len(by_source()) == len(catalogue())


def test_an_unknown_model_is_an_error_that_names_the_nearest():
    with pytest.raises(UnknownName, match=r"Did you mean 'mamba2-130m'\?"):
        find("mamba2_130m")
