"""Ratios that make one model cost what another costs: found, or said not to exist."""

from __future__ import annotations

import json
import re

import pytest

from ssmbench.cli import main
from ssmbench.errors import GridError
from ssmbench.grid.catalogue import find
from ssmbench.grid.read import read_grid
from ssmbench.methods import simba, utrc
from ssmbench.models import description as d
from ssmbench.models.token_flops import Drop, count
from ssmbench.plan.expand import expand
from ssmbench.plan.match import FLOOR_RATIO, STEPS, Match, match_flops

ATTENTION = d.Attention(4, 4, 8, 8)


def match(
    big: str, small: str, *, power: bool = True, head: str = "all", prompt: int = 1000, **params
) -> Match:
    model, given = find(big).describe(), simba.Params(**params)
    steep = given.model_copy(update={"schedule": "power"})

    def by_power(p: float) -> Drop:
        return simba.drops(model, ratio=FLOOR_RATIO, params=steep.model_copy(update={"power": p}))

    return match_flops(
        model,
        count(find(small).describe(), prompt=prompt, answer=10).total(head),
        schedule=lambda ratio: simba.drops(model, ratio=ratio, params=given),
        power=by_power if power else None,
        prompt=prompt,
        head=head,
    )


def flops(name: str, ratio: float = 0, *, prompt: int = 1000, head: str = "all", **params) -> int:
    model = find(name).describe()
    drop = simba.drops(model, ratio=ratio, params=simba.Params(**params)) if ratio else None
    return count(model, prompt=prompt, answer=10, drop=drop).total(head)


@pytest.mark.parametrize("head", ["all", "scored"])
def test_every_published_pair_is_matched_or_said_to_be_impossible(shared, head):
    published = json.loads((shared / "spec" / "simba_flops.json").read_text())
    for pair, expected in published[f"match_{head}"].items():
        found = match(*pair.split("->"), head=head)
        if expected["r"] is not None:
            assert found.status == "exact", pair
            assert found.power is None
            # Where tokens are whole, a range of ratios costs the same.
            assert 1 - found.ratio == pytest.approx(expected["r"], abs=1e-3), pair
        elif expected["p_at_r01"] is not None:
            assert (found.status, found.ratio) == ("floor", 0.9), pair
            assert found.power == pytest.approx(expected["p_at_r01"], abs=1e-5), pair
        else:
            assert found.status == "infeasible", pair
            assert found.relative_error > 0, pair
        if found.status != "infeasible":
            assert abs(found.relative_error) < 2e-4, pair


@pytest.mark.parametrize(
    ("big", "small", "head", "kept"),
    [
        ("mamba-2.8b", "mamba-1.4b", "all", 0.023),
        ("mamba-1.4b", "mamba-790m", "all", 0.203),
        ("mamba-1.4b", "mamba-790m", "scored", 0.116),
        ("mamba-790m", "mamba-370m", "all", 0.018),
        ("mamba2-2.7b", "mamba2-1.3b", "all", 0.036),
    ],
)
def test_ratios_of_the_specification(big, small, head, kept):
    found = match(big, small, head=head)
    assert found.status == "exact"
    assert 1 - found.ratio == pytest.approx(kept, abs=1e-3)


def test_what_is_found_costs_what_it_says():
    found = match("mamba-2.8b", "mamba-1.4b")
    assert found.flops == flops("mamba-2.8b", found.ratio)
    assert found.relative_error == found.flops / flops("mamba-1.4b") - 1
    steep = match("mamba-370m", "mamba-130m")
    assert steep.flops == flops("mamba-370m", 0.9, schedule="power", power=steep.power)


def test_no_neighbouring_ratio_is_nearer():
    found, target = match("mamba-1.4b", "mamba-790m"), flops("mamba-790m")
    for step in (-1, 1):
        other = flops("mamba-1.4b", found.ratio + step / STEPS)
        assert abs(other - target) >= abs(found.flops - target)


def test_without_the_power_schedule_a_target_below_half_is_infeasible_and_the_least_is_told():
    found = match("mamba-370m", "mamba-130m", power=False)
    assert (found.status, found.power, found.ratio) == ("infeasible", None, 1 - 1 / STEPS)
    assert found.flops == flops("mamba-370m", 1 - 1 / STEPS)
    assert found.relative_error == pytest.approx(0.27, abs=0.01)


def test_a_target_just_below_the_least_is_not_taken_for_met():
    model = find("mamba-370m").describe()
    least = flops("mamba-370m", 1 - 1 / STEPS)

    def schedule(ratio: float) -> Drop:
        return simba.drops(model, ratio=ratio, params=simba.Params())

    assert match_flops(model, least, schedule=schedule).status == "exact"
    below = match_flops(model, least - 1, schedule=schedule)
    assert (below.status, below.flops) == ("infeasible", least)


def test_a_model_matches_itself_with_all_its_tokens_and_a_larger_one_not_at_all():
    found = match("mamba-1.4b", "mamba-1.4b")
    assert (found.status, found.ratio, found.relative_error) == ("exact", 0, 0)
    found = match("mamba-370m", "mamba-1.4b")
    assert (found.status, found.ratio, found.power) == ("infeasible", 0, None)
    assert found.relative_error < 0


def test_a_prompt_too_short_for_so_fine_a_step_is_infeasible():
    """Two layers of 3 tokens: half of the dense cost is between two steps."""
    layer = d.Layer(d.SelectiveScan(16, 4, 1), d.Norm())
    model = d.Description("mamba", 8, 11, (layer,) * 2, d.Norm())

    def schedule(ratio: float) -> Drop:
        return simba.drops(model, ratio=ratio, params=simba.Params())

    dense = count(model, prompt=3, answer=1).total("all")
    found = match_flops(model, round(0.88 * dense), schedule=schedule, prompt=3, answer=1)
    assert found.status == "infeasible"
    assert 0.01 < abs(found.relative_error) < 0.2


def test_a_method_that_refuses_high_ratios_is_matched_below_them():
    model, params = find("mamba-1.4b").describe(), utrc.Params(anchors=[10])

    def schedule(ratio: float) -> Drop:
        return utrc.drops(model, ratio=ratio, params=params)

    target = count(model, prompt=1000, drop=schedule(0.5)).total("all")
    assert match_flops(model, target, schedule=schedule, answer=0).ratio == 0.5
    lower = match_flops(model, round(0.9 * target), schedule=schedule, answer=0)
    assert (lower.status, lower.ratio) == ("infeasible", 0.5)


# In a grid.

GRID = {"models": ["mamba-2.8b", "mamba-370m"], "suites": ["zero_shot"]}


@pytest.fixture
def path(tmp_path):
    """Write a grid that differs from GRID in some keys."""

    def write(**keys):
        file = tmp_path / "grid.yaml"
        file.write_text(json.dumps({**GRID, **keys}))
        return file

    return write


def cells(file):
    return [e.cell for e in expand(read_grid(file)) if e.cell.method != "dense"]


def problems(file) -> list[str]:
    with pytest.raises(GridError) as caught:
        expand(read_grid(file))
    return [p.removeprefix(f"{file}:") for p in caught.value.problems]


def simba_entry(ratio, *, models="mamba-2.8b", **keys):
    return {"method": "simba", "models": models, "ratio": ratio, **keys}


def test_a_cell_holds_the_plain_ratio(path):
    asked = path(methods=[simba_entry({"match_flops": "mamba-1.4b"})])
    (found,) = cells(asked)
    assert found.ratio == match("mamba-2.8b", "mamba-1.4b").ratio
    plain = path(methods=[simba_entry(found.ratio)])
    assert [c.id for c in cells(plain)] == [found.id]


def test_each_model_of_an_entry_has_its_own_ratio(path):
    models = ["mamba-2.8b", "mamba-1.4b"]
    ratio = [0.9, {"match_flops": "mamba-1.4b", "prompt": 500}]
    found = cells(path(models=models, methods=[simba_entry(ratio, models="mamba-*")]))
    own = match("mamba-2.8b", "mamba-1.4b", prompt=500).ratio
    # mamba-1.4b costs as much as itself with all its tokens: the dense cell, which there is.
    assert [(c.model.name, c.ratio) for c in found] == [
        ("mamba-2.8b", 0.9),
        ("mamba-2.8b", own),
        ("mamba-1.4b", 0.9),
    ]


def test_the_other_keys_count(path):
    def ratio(**keys):
        entry = simba_entry({"match_flops": "mamba-1.4b", **keys}, schedule="geometric")
        return cells(path(methods=[entry]))[0].ratio

    assert ratio() == ratio(prompt=1000, answer=10, head="all")
    assert len({ratio(), ratio(prompt=50), ratio(answer=500), ratio(head="scored")}) == 4


def test_the_power_schedule_is_taken_only_where_it_is_asked_for_and_needed(path):
    ratio = {"match_flops": "mamba-130m", "otherwise": "power"}
    (found,) = cells(path(methods=[simba_entry(ratio, models="mamba-370m", every=2)]))
    expected = match("mamba-370m", "mamba-130m", every=2)
    assert found.ratio == 0.9
    assert found.steps[0].params["schedule"] == "power"
    assert found.steps[0].params["power"] == expected.power
    assert found.steps[0].params["every"] == 2
    ratio = {"match_flops": "mamba-1.4b", "otherwise": "power"}
    (found,) = cells(path(methods=[simba_entry(ratio)]))
    assert found.steps[0].params["schedule"] == "linear"


def test_a_chain_is_matched_by_its_last_step(path):
    ratio = {"match_flops": "mamba-130m", "otherwise": "power"}
    chain = {"method": "wanda+simba", "wanda": {"ratio": 0.5}, "simba": {"every": 2}}
    (found,) = cells(path(methods=[{**chain, "ratio": ratio, "models": "mamba-370m"}]))
    assert [(s.name, s.ratio) for s in found.steps] == [("wanda", 0.5), ("simba", 0.9)]
    params = found.steps[1].params
    assert (params["every"], params["schedule"]) == (2, "power")


def test_a_target_may_be_a_model_of_the_grid(path, tmp_path):
    config = {"d_model": 64, "n_layer": 4, "vocab_size": 96, "ssm_cfg": {"layer": "Mamba2"}}
    for name, n_layer in (("large", 6), ("small", 4)):
        (tmp_path / name).mkdir()
        config["n_layer"] = n_layer
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    models = [{"name": "a[1]", "path": "large"}, {"path": "small"}]
    entry = simba_entry({"match_flops": "small"}, models=["a*", "small"])
    (found,) = cells(path(models=models, methods=[entry]))
    assert found.model.name == "a[1]"
    assert 0.5 < found.ratio < 0.9


def test_zoo_models_match_one_another(path):
    ratio = {"match_flops": "zoo-mamba-s", "prompt": 200, "answer": 1}
    (found,) = cells(path(models=["zoo-mamba-m"], methods=[simba_entry(ratio, models="zoo-*")]))
    assert found.ratio == pytest.approx(0.9725, abs=1e-4)


@pytest.mark.parametrize(
    ("entry", "sentences"),
    [
        (
            simba_entry({"match_flops": "mamba-130m"}, models="mamba-370m"),
            [
                "mamba-370m cannot cost as much as mamba-130m by 'simba' (prompt 1000, answer 10, "
                "head all): found 335.45 GFLOPs with one token left at the last layer, the nearest "
                "to 264.19 GFLOPs (+27 %)",
                "'otherwise: power' does it with ratio 0.9 and power 0.43",
            ],
        ),
        (
            simba_entry({"match_flops": "mamba-130m", "otherwise": "power"}),
            ["with ratio 0.9 and power 1e-06, the nearest to 264.19 GFLOPs (+160 %)"],
        ),
        (
            simba_entry({"match_flops": "mamba-2.8b"}, models="mamba-370m"),
            ["found 759.35 GFLOPs with all its tokens, fewer than the 5621.7 GFLOPs"],
        ),
        (
            {"method": "magnitude", "ratio": {"match_flops": "mamba-130m"}},
            ["'magnitude' drops no tokens", "expected a number, or one of simba, utrc"],
        ),
        (
            simba_entry({"match_flops": "mamba-13m"}),
            ["ratio.match_flops: no model is called 'mamba-13m'. Did you mean 'mamba-130m'?"],
        ),
        (simba_entry({"match_flops": "mamba-1.4b", "q": 1}), ["ratio: the key 'q' is unknown."]),
        (simba_entry({"prompt": 3}), ["ratio: the key 'match_flops' is missing"]),
        (
            simba_entry([0.5, {"match_flops": "mamba-1.4b", "prompt": 0}]),
            ["ratio[1].prompt: found 0 (a number); expected at least 1"],
        ),
        (
            simba_entry({"match_flops": "mamba-1.4b", "head": "some"}),
            ["ratio.head: found 'some' (text); expected one of these."],
        ),
        (
            {"method": "utrc", "ratio": {"match_flops": "mamba-1.4b", "otherwise": "power"}},
            ["ratio.otherwise: 'utrc' has no power schedule"],
        ),
        (
            {"method": "state+simba", "ratio": {"match_flops": "mamba-1.4b"}},
            ["the FLOPs after 'state' are not known before it ran"],
        ),
        (
            {"method": "wanda+simba", "ratio": {"match_flops": "mamba-1.4b"}},
            ["'wanda' would take the ratio that is found for 'simba'"],
        ),
    ],
)
def test_what_cannot_be_is_told_at_its_place(path, entry, sentences):
    (found,) = problems(path(methods=[entry]))
    assert found.startswith("1:")
    for sentence in sentences:
        assert sentence in found


def test_all_that_cannot_be_matched_is_told_at_once_with_its_line(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(
        "models: [mamba-370m, mamba-790m, {path: some/model}]\n"
        "methods:\n"
        "- method: simba\n"
        "  ratio:\n"
        "  - 0.5\n"
        "  - match_flops: mamba-130m\n"
        "suites: [zero_shot]\n"
    )
    found = problems(file)
    assert [p.partition(" ")[0] for p in found] == ["6:5:"] * 3
    assert "methods[0].ratio[1]: mamba-370m cannot cost as much as mamba-130m" in found[0]
    assert "mamba-790m cannot cost" in found[1]
    assert "the architecture of 'model' is known to the hub alone" in found[2]


def test_a_model_without_a_scan_is_told(path):
    entry = simba_entry({"match_flops": "pythia-160m"}, models="pythia-410m")
    (found,) = problems(path(models=["pythia-410m"], methods=[entry]))
    assert "gpt_neox: found no SSM mixer" in found


def test_plan_shows_what_was_found_and_how_far_off(path, tmp_path, capsys):
    file = path(
        methods=[
            simba_entry({"match_flops": "mamba-1.4b"}),
            simba_entry({"match_flops": "mamba-130m", "otherwise": "power"}, models="mamba-370m"),
        ]
    )
    assert main(["plan", str(file), "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (exact,) = (line for line in lines if "mamba-1.4b, 2789.6 GFLOPs" in line)
    assert re.search(r" 2790 GFLOPs +\+0\.014 % +exact ", exact)
    (floor,) = (line for line in lines if "mamba-130m, 264.19 GFLOPs" in line)
    assert " floor " in floor
    assert "1000 + 10 tokens, head all" in floor


def test_a_plan_without_matches_shows_none(path, tmp_path, capsys):
    main(["plan", str(path(methods=["dense"])), "--out", str(tmp_path / "run")])
    assert "to cost as much as" not in capsys.readouterr().out
