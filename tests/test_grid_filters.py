"""`--only`: what it means and what it refuses."""

from __future__ import annotations

import pytest

from ssmbench.errors import CommandError
from ssmbench.grid.filters import parse_filter

VALUES = {
    "model": "zoo-mamba-s",
    "method": "wanda",
    "ratio": 0.5,
    "seed": 0,
    "suite": "tinyworld",
    "fine_tune": "none",
    "family": "mamba",
    "id": "0123456789ab",
}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ([], True),
        (["model=zoo-*"], True),
        (["model=mamba-*"], False),
        (["model!=mamba-*"], True),
        (["model=zoo-*,ratio>=0.5"], True),
        (["model=zoo-*,ratio>0.5"], False),
        (["ratio=.5"], True),
        (["ratio==0.50"], True),
        (["ratio!=0.5"], False),
        (["ratio<=0.5,ratio<0.6"], True),
        ([" model = zoo-mamba-? , seed = 0 "], True),
        (["model=x", "method=wanda"], True),
        (["model=x", "method=random"], False),
        (["0123"], True),
        (["0123456789ab"], True),
        (["abc"], False),
        (["id=0123"], True),
        (["id!=0123"], False),
        (["suite=tiny*"], True),
        (["family=mamba2"], False),
        (["fine_tune=none"], True),
    ],
)
def test_a_filter_means_what_it_says(only, expected):
    assert parse_filter(only).matches(VALUES) is expected


def test_an_unknown_family_equals_nothing():
    values = {**VALUES, "family": None}
    assert not parse_filter(["family=mamba"]).matches(values)
    assert parse_filter(["family!=mamba"]).matches(values)


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("modle=x", "there is no field 'modle'. Did you mean 'model'? Known: "),
        ("ratio=half", "found 'half'; ratio is a number: expected one"),
        ("ratio>=", "'ratio>=' has no value; expected one"),
        ("model>zoo", "found 'model>zoo'; model is text: expected '=' or '!='"),
        ("wanda", "found 'wanda'; expected FIELD=VALUE"),
        ("", "found ''; expected FIELD=VALUE"),
        ("model=x,,ratio=1", "found ''; expected FIELD=VALUE"),
        ("=3", "there is no field ''"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(only, expected):
    with pytest.raises(CommandError) as caught:
        parse_filter([only])
    assert f"--only '{only}': {expected}" in str(caught.value)
