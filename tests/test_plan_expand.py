"""From a grid to cells: which there are, and that each compressed model is there once."""

from __future__ import annotations

import json

import pytest

from ssmbench.errors import CommandError
from ssmbench.grid.filters import parse_filter
from ssmbench.grid.read import read_grid
from ssmbench.plan.cells import Calibration, Resources, identity_of
from ssmbench.plan.expand import expand
from ssmbench.plan.resolve import resolve_text
from ssmbench.plan.select import select

BASE = {"models": ["mamba2-130m"], "methods": ["dense"], "suites": ["zero_shot"]}


@pytest.fixture
def plan(tmp_path):
    """Plan a grid that differs from BASE in some keys."""

    def plan_grid(*, limit=None, device=None, given=None, **keys):
        path = tmp_path / "grid.yaml"
        path.write_text(json.dumps({**BASE, **keys}))
        return expand(read_grid(path, models=given), limit=limit, device=device)

    return plan_grid


@pytest.fixture
def folder(tmp_path):
    """A model folder as far as planning looks into one."""
    return write_model(tmp_path / "tiny")


def write_model(path, *, weights=b"weights"):
    path.mkdir()
    config = {"d_model": 64, "n_layer": 2, "vocab_size": 96, "ssm_cfg": {"layer": "Mamba2"}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(weights)
    return path


def labels(entries):
    return [entry.cell.label.partition(" · ")[2] for entry in entries]


def ids(entries):
    return [entry.cell.id for entry in entries]


def test_the_dense_cell_is_there_even_if_the_grid_does_not_name_it(plan):
    entries = plan(methods=[{"method": "magnitude", "ratio": 0.5}])
    assert labels(entries) == ["dense", "magnitude 0.5"]


def test_dense_is_planned_once_however_often_it_is_meant(plan):
    methods = [
        "dense",
        {"method": "magnitude", "ratio": [0, 0.5]},
        {"method": "wanda", "ratio": 0.0},
        {"method": "random+wanda", "ratio": 0},
    ]
    entries = plan(methods=methods, seeds=[0, 1, 2])
    assert labels(entries) == ["dense", "magnitude 0.5"]


def test_each_model_has_its_dense_cell(plan):
    entries = plan(models=["mamba-130m", "mamba2-130m"])
    assert [e.cell.model.name for e in entries] == ["mamba-130m", "mamba2-130m"]


def test_seeds_count_only_where_something_is_drawn(plan):
    methods = [{"method": name, "ratio": 0.5} for name in ("magnitude", "random", "wanda")]
    entries = plan(methods=methods, seeds=[0, 7])
    assert labels(entries) == [
        "dense",
        "magnitude 0.5",
        "random 0.5",
        "random 0.5 · seed 7",
        "wanda 0.5",
        "wanda 0.5 · seed 7",
    ]


def test_calibration_windows_are_drawn_with_both_seeds(plan):
    entries = plan(
        methods=[{"method": "wanda", "ratio": 0.5}],
        seeds=[0, 7],
        calibration={"seed": 100, "data": "c4", "samples": 3, "length": 5},
    )
    dense, *pruned = (e.cell for e in entries)
    assert dense.calibration is None
    assert [c.calibration.seed for c in pruned] == [100, 107]
    assert {(c.calibration.data, c.calibration.samples) for c in pruned} == {("c4", 3)}


def test_calibration_does_not_touch_cells_that_need_none(plan):
    methods = [{"method": name, "ratio": 0.5} for name in ("magnitude", "random")]
    one = plan(methods=methods)
    two = plan(methods=methods, calibration={"samples": 3, "data": "c4"})
    assert ids(one) == ids(two)


def test_leaving_a_parameter_out_and_giving_its_default_are_the_same_cell(plan):
    entries = plan(
        methods=[
            {"method": "magnitude", "ratio": 0.5},
            {"method": "magnitude", "ratio": 0.5, "per": "matrix", "targets": "both"},
            {"method": "magnitude", "ratio": 0.5, "per": "row"},
        ]
    )
    assert [e.cell.steps[0].params.get("per") for e in entries] == [None, "matrix", "row"]


def test_a_chain_sweeps_the_steps_that_set_no_ratio_of_their_own(plan):
    chain = {
        "method": "random+magnitude",
        "ratio": [0.3, 0.5],
        "random": {"ratio": 0.1, "targets": "in_proj"},
    }
    entries = plan(methods=[chain])
    first = "random 0.1 (targets=in_proj)"
    assert labels(entries) == ["dense", f"{first} + magnitude 0.3", f"{first} + magnitude 0.5"]
    assert entries[1].cell.steps[0].params["targets"] == "in_proj"
    assert entries[1].cell.method == "random+magnitude"


def test_a_step_that_removes_nothing_is_left_out_of_a_chain(plan):
    chain = {"method": "random+magnitude", "ratio": 0.5, "random": {"ratio": 0}}
    alone = plan(methods=[{"method": "magnitude", "ratio": 0.5}])
    assert ids(plan(methods=[chain])) == ids(alone)


def test_two_names_of_the_same_weights_are_one_cell(plan, folder):
    entries = plan(models=[{"name": "a", "path": "tiny"}, {"name": "b", "path": "tiny"}])
    assert [e.cell.model.name for e in entries] == ["a"]


def test_a_folder_is_known_by_its_content_and_not_by_its_place(plan, tmp_path):
    write_model(tmp_path / "one")
    write_model(tmp_path / "two")
    write_model(tmp_path / "three", weights=b"others")
    one, two, three = (ids(plan(models=[{"path": name}])) for name in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_another_tokenizer_is_another_cell(plan, folder, tmp_path):
    one = plan(models=[{"path": "tiny"}])
    (folder / "tokenizer.json").write_text("{}")
    two = plan(models=[{"path": "tiny"}])
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    three = plan(models=[{"path": "tiny", "tokenizer": "words"}])
    assert ids(one) != ids(two)
    assert ids(two) == ids(three)
    assert three[0].cell.model.tokenizer == str(tmp_path / "words")


def test_a_model_from_the_command_line_keeps_its_name_and_published_tokenizer(plan, folder):
    (entry,) = plan(given={"mamba2-130m": str(folder)})
    model = entry.cell.model
    assert (model.name, model.family) == ("mamba2-130m", "mamba2")
    assert model.source == f"folder:{folder}"
    assert model.tokenizer == "EleutherAI/gpt-neox-20b"


def test_a_hub_id_that_the_catalogue_knows_gets_its_tokenizer(plan):
    (entry,) = plan(models=[{"path": "state-spaces/mamba2-130m"}])
    assert ids([entry]) == ids(plan())
    assert entry.cell.model.tokenizer == "EleutherAI/gpt-neox-20b"
    assert entry.cell.model.family == "mamba2"


def test_a_revision_is_part_of_the_identity(plan):
    assert ids(plan()) != ids(plan(models=[{"name": "mamba2-130m", "revision": "abc"}]))


def test_a_calibration_file_is_known_by_its_content(plan, tmp_path):
    (tmp_path / "a.txt").write_text("once")
    (tmp_path / "b.txt").write_text("once")
    (tmp_path / "c.txt").write_text("twice")
    methods = [{"method": "wanda", "ratio": 0.5}]
    a, b, c = (plan(methods=methods, calibration={"data": f"{n}.txt"}) for n in "abc")
    assert ids(a) == ids(b)
    assert ids(a) != ids(c)
    assert a[1].cell.calibration.path == str(tmp_path / "a.txt")


def test_a_folder_of_text_is_known_by_its_files(tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("once")
    one = resolve_text("books", tmp_path)
    (tmp_path / "books" / "b.txt").write_text("twice")
    two = resolve_text("books", tmp_path)
    assert one.data != two.data
    assert one.path == str(tmp_path / "books")


def test_a_generated_text_has_a_version(tmp_path):
    from ssmbench.zoo import tinyworld

    assert resolve_text("tinyworld", tmp_path).version == tinyworld.VERSION
    assert resolve_text("wikitext", tmp_path).version is None


@pytest.mark.parametrize(
    ("data", "split"), [("wikitext", "train"), ("c4", "train"), ("tinyworld", "calibration")]
)
def test_a_known_text_says_which_split_is_read(plan, data, split):
    methods = [{"method": "wanda", "ratio": 0.5}]
    (_, pruned) = plan(methods=methods, calibration={"data": data})
    assert pruned.cell.calibration.split == split
    assert identity_of(pruned.cell)["calibration"]["split"] == split


def test_a_method_is_planned_only_for_the_models_that_it_names(plan):
    methods = [
        {"method": "magnitude", "ratio": 0.5, "models": ["mamba2-*", "mamba-130m"]},
        {"method": "random", "ratio": 0.5, "models": "mamba-130m"},
    ]
    entries = plan(models=["mamba-130m", "mamba-370m", "mamba2-130m"], methods=methods)
    found = [(e.cell.model.name, e.cell.method) for e in entries]
    assert found == [
        ("mamba-130m", "dense"),
        ("mamba-130m", "magnitude"),
        ("mamba-130m", "random"),
        ("mamba-370m", "dense"),
        ("mamba2-130m", "dense"),
        ("mamba2-130m", "magnitude"),
    ]


def test_for_which_models_an_entry_is_does_not_show_in_the_cells(plan):
    entry = {"method": "magnitude", "ratio": 0.5}
    named = plan(methods=[{**entry, "models": ["mamba2-130m"]}])
    assert ids(named) == ids(plan(methods=[entry]))


def test_the_same_cell_by_two_entries_is_one(plan):
    methods = [
        {"method": "wanda", "ratio": 0.5},
        {"method": "wanda", "ratio": [0.25, 0.5], "models": "mamba2-*"},
        {"method": "wanda", "ratio": 0.5, "calibration": {"samples": 128, "seed": 0}},
    ]
    entries = plan(models=["mamba-130m", "mamba2-130m"], methods=methods)
    found = [(e.cell.model.name, e.cell.ratio) for e in entries if e.cell.method == "wanda"]
    assert found == [("mamba-130m", 0.5), ("mamba2-130m", 0.5), ("mamba2-130m", 0.25)]


def test_a_methods_own_calibration_overrides_what_it_says_and_no_more(plan):
    methods = [
        {"method": "wanda", "ratio": 0.5},
        {"method": "wanda", "ratio": 0.6, "calibration": {"samples": 20, "length": 2048}},
    ]
    calibration = {"data": "c4", "samples": 3, "seed": 4}
    _, first, second = plan(methods=methods, calibration=calibration, seeds=[1])
    assert first.cell.calibration == Calibration("c4", 3, 128, 5, split="train")
    assert second.cell.calibration == Calibration("c4", 20, 2048, 5, split="train")


def test_what_a_method_needs_follows_from_its_parameters(plan):
    scores = ("fisher", "magnitude", "random")
    methods = [{"method": "state", "ratio": 0.5, "score": score} for score in scores]
    entries = plan(methods=methods, seeds=[0, 7])
    found = [
        (e.cell.steps[0].params.get("score"), e.cell.seed, e.cell.calibration is not None)
        for e in entries
    ]
    assert found == [
        (None, 0, False),
        ("fisher", 0, True),
        ("fisher", 7, True),
        ("magnitude", 0, False),
        ("random", 0, False),
        ("random", 7, False),
    ]


def test_limit_and_device_belong_to_the_suites_that_they_change(plan):
    suites = ["zero_shot", "latency"]
    (entry,) = plan(suites=suites, limit=10, device="a device")
    quality, timing = entry.suites
    assert (quality.limit, quality.device) == (10, None)
    assert (timing.limit, timing.device) == (None, "a device")
    assert ids(plan(suites=suites)) == ids([entry])


def test_suites_that_mean_the_same_are_wanted_once(plan):
    suites = ["perplexity", {"suite": "perplexity", "data": "wikitext"}]
    (entry,) = plan(suites=suites)
    assert len(entry.suites) == 1


def test_resources_go_to_attempts_and_timing_differs_where_said(plan):
    (entry,) = plan(
        resources={"num_cpus": 2, "labels": {"zone": "a"}, "timing": {"num_gpus": 1}},
        timeout_min=2,
        batch_tokens=64,
    )
    assert entry.resources_for("quality") == Resources(num_cpus=2, labels={"zone": "a"})
    expected = Resources(num_cpus=2, num_gpus=1, labels={"zone": "a"})
    assert entry.resources_for("timing") == expected
    assert (entry.timeout_s, entry.batch_tokens) == (120, 64)
    assert ids(plan()) == ids([entry])


def test_a_suite_may_be_meant_for_some_methods_and_always_measures_dense(plan):
    entries = plan(
        methods=[
            {"method": "magnitude", "ratio": 0.5},
            {"method": "random+magnitude", "ratio": 0.5, "random": {"ratio": 0.1}},
        ],
        suites=["zero_shot", {"suite": "perplexity", "methods": "*+magnitude"}],
    )
    assert {e.cell.method: [s.name for s in e.suites] for e in entries} == {
        "dense": ["zero_shot", "perplexity"],
        "magnitude": ["zero_shot"],
        "random+magnitude": ["zero_shot", "perplexity"],
    }


def test_a_suite_may_be_meant_for_some_models(plan):
    suites = ["zero_shot", {"suite": "perplexity", "models": "mamba2-*"}]
    entries = plan(models=["mamba-130m", "mamba2-130m"], suites=suites)
    assert {e.cell.model.name: len(e.suites) for e in entries} == {
        "mamba-130m": 1,
        "mamba2-130m": 2,
    }


def test_only_keeps_the_cells_and_suites_that_are_meant(plan):
    entries = plan(
        methods=[{"method": "magnitude", "ratio": [0.3, 0.6]}], suites=["zero_shot", "perplexity"]
    )
    kept = select(entries, parse_filter(["ratio>0.5,suite=perp*"]))
    assert labels(kept) == ["magnitude 0.6"]
    assert [s.name for s in kept[0].suites] == ["perplexity"]
    assert select(entries, parse_filter([])) == entries
    assert labels(select(entries, parse_filter([entries[1].cell.id[:6]]))) == ["magnitude 0.3"]


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("model=mamba2-370m", "no cell of the grid has model=mamba2-370m. Did you mean 'mamba2-13"),
        ("ratio=0.4", "no cell of the grid has ratio=0.4. Did you mean '0.5'? Known: 0, 0.5."),
        ("method=dense,ratio=0.5", "no cell of the grid matches method=dense,ratio=0.5"),
        ("fff", "no cell of the grid has id=fff*. `ssmbench plan GRID` lists the ids."),
    ],
)
def test_a_filter_that_leaves_nothing_says_why(plan, only, expected):
    entries = plan(methods=[{"method": "magnitude", "ratio": 0.5}])
    with pytest.raises(CommandError) as caught:
        select(entries, parse_filter([only]))
    assert expected in str(caught.value)
