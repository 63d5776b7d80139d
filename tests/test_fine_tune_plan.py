"""The cells that a grid's `fine_tune` makes: which, their names, why they are to do, their cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssmbench.errors import CommandError
from ssmbench.grid.filters import parse_filter
from ssmbench.grid.fine_tune import PRESETS, SPLITS, TEXTS, make_recipe
from ssmbench.grid.fine_tune_entry import settings
from ssmbench.grid.read import read_grid
from ssmbench.plan import cost
from ssmbench.plan.cells import FineTune, identity_of
from ssmbench.plan.decide import decide
from ssmbench.plan.expand import expand
from ssmbench.plan.history import History
from ssmbench.plan.labels import training_label
from ssmbench.plan.select import select

GRIDS = Path(__file__).parents[1] / "grids"
STATE = {"method": "state", "ratio": 0.5, "score": "magnitude"}
SIMBA = {"method": "simba", "ratio": 0.5}
BASE = {"models": ["mamba2-130m"], "methods": [STATE], "suites": ["zero_shot"]}


@pytest.fixture
def read(tmp_path):
    """Read a grid that differs from BASE in some keys."""

    def read_changed(**keys):
        path = tmp_path / "grid.yaml"
        path.write_text(json.dumps({**BASE, **keys}))
        return read_grid(path)

    return read_changed


@pytest.fixture
def plan(read):
    """Plan such a grid."""
    return lambda **keys: expand(read(**keys))


def trained(entries):
    return [entry.cell for entry in entries if entry.cell.fine_tune.kind != "none"]


def found(entries):
    """Give (model, method, training, seed) of each cell."""
    cells = [entry.cell for entry in entries]
    return [(c.model.name, c.method, c.fine_tune.kind, c.seed) for c in cells]


def test_leaving_a_value_out_and_giving_the_presets_are_the_same_cell(plan):
    whole = {**PRESETS["pruner"].values, "fine_tune": "kd", "preset": "pruner", "split": "train"}
    del whole["ratios"]
    one, two = plan(fine_tune=["none", "kd"]), plan(fine_tune=["none", whole])
    assert [e.cell.id for e in one] == [e.cell.id for e in two]
    assert len(one) == 3


def test_every_value_that_is_set_is_part_of_the_identity(plan):
    others = {
        "data": "c4",
        "seed": 1,
        "adapters": "all",
        "rank": 4,
        "alpha": 8,
        "dropout": 0,
        "targets": "mixers",
        "learning_rate": 1e-4,
        "weight_decay": 0,
        "beta1": 0.8,
        "beta2": 0.99,
        "clip": 0.5,
        "schedule": "constant",
        "warmup": 1,
        "steps": 20,
        "batch": 2,
        "length": 64,
        "dtype": "float32",
        "temperature": 2,
        "log_every": 3,
    }
    assert {*others, "split", "ratios"} == set(settings())
    ids = {trained(plan(fine_tune=["kd"]))[0].id}
    for key, value in others.items():
        (cell,) = trained(plan(fine_tune=[{"fine_tune": "kd", key: value}]))
        assert key == "adapters" or cell.fine_tune.params[key] == value
        ids.add(cell.id)
    assert len(ids) == 1 + len(others)
    sparse = [{"fine_tune": "dense+sparse", "ratios": [0, top]} for top in (0.5, 0.9)]
    one, two = trained(plan(methods=[SIMBA], fine_tune=["none", *sparse]))
    assert one.id != two.id


def test_where_a_training_is_for_and_how_often_it_is_saved_are_no_identity(plan):
    plain = plan(fine_tune=["none", "kd"])
    named = plan(
        fine_tune=["none", {"fine_tune": "kd", "methods": "st*", "models": "mamba2-*"}],
        checkpoint_min=0.5,
    )
    assert [e.cell.id for e in plain] == [e.cell.id for e in named]
    assert (plain[0].checkpoint_s, named[0].checkpoint_s) == (600, 30)


def test_a_text_of_ones_own_is_known_by_its_content_and_its_place_is_kept(plan, tmp_path):
    for name, text in (("a.txt", "once"), ("b.txt", "once"), ("c.txt", "twice")):
        (tmp_path / name).write_text(text)
    one, two, other = (
        trained(plan(fine_tune=[{"fine_tune": "kd", "data": f"{name}.txt"}]))[0] for name in "abc"
    )
    assert one.id == two.id != other.id
    assert one.fine_tune.path == str(tmp_path / "a.txt")
    assert one.fine_tune.recipe.data.startswith("sha256:")
    assert "split" not in one.fine_tune.params
    assert "path" not in identity_of(one)["fine_tune"]


@pytest.mark.parametrize("data", TEXTS)
def test_a_known_text_says_which_split_is_read_and_its_version(plan, data):
    from ssmbench.zoo import tinyworld

    (cell,) = trained(plan(fine_tune=[{"fine_tune": "ce", "data": data}]))
    assert cell.fine_tune.params["split"] == SPLITS[data] != "test"
    version = tinyworld.VERSION if data == "tinyworld" else None
    assert cell.fine_tune.params.get("data_version") == version


def test_the_zoo_is_trained_on_its_own_language_unless_said_otherwise(plan):
    models = ["zoo-mamba2", "mamba2-130m"]
    cells = trained(plan(models=models, fine_tune=["kd"]))
    assert [c.fine_tune.params["data"] for c in cells] == ["tinyworld", "wikitext"]
    cells = trained(plan(models=models, fine_tune=[{"fine_tune": "kd", "data": "c4"}]))
    assert [c.fine_tune.params["data"] for c in cells] == ["c4", "c4"]


def test_the_computing_type_is_the_presets_or_else_the_cells(plan):
    (kd,) = trained(plan(fine_tune=["kd"]))
    assert (kd.dtype, kd.fine_tune.params["dtype"]) == ("float32", "bfloat16")
    keys = {"methods": [SIMBA], "fine_tune": ["dense+sparse"], "dtype": "float16"}
    (sparse,) = trained(plan(**keys))
    assert sparse.fine_tune.params["dtype"] == "float16"


# Which cells are trained.


def test_a_bare_kind_means_every_compressed_cell_to_which_it_applies(plan):
    entries = plan(
        models=["mamba2-130m", "mamba2-370m"],
        methods=["dense", STATE, {**SIMBA, "models": "mamba2-130m"}],
        fine_tune=["none", "kd", "ce", "dense+sparse"],
    )
    assert [(m, k, t) for m, k, t, _ in found(entries)] == [
        ("mamba2-130m", "dense", "none"),
        ("mamba2-130m", "state", "none"),
        ("mamba2-130m", "simba", "none"),
        ("mamba2-130m", "state", "kd"),
        ("mamba2-130m", "state", "ce"),
        ("mamba2-130m", "simba", "dense+sparse"),
        ("mamba2-370m", "dense", "none"),
        ("mamba2-370m", "state", "none"),
        ("mamba2-370m", "state", "kd"),
        ("mamba2-370m", "state", "ce"),
    ]


def test_the_untrained_dense_cell_is_there_even_if_all_others_are_trained(plan):
    assert found(plan(fine_tune=["kd"])) == [
        ("mamba2-130m", "dense", "none", 0),
        ("mamba2-130m", "state", "kd", 0),
    ]


def test_dense_and_ratio_0_are_trained_only_where_dense_is_named(plan):
    methods = [{**STATE, "ratio": [0, 0.5]}]
    entries = plan(methods=methods, fine_tune=["none", {"fine_tune": "ce", "methods": ["*"]}])
    assert [(k, t) for _, k, t, _ in found(entries)] == [
        ("dense", "none"),
        ("state", "none"),
        ("state", "ce"),
    ]
    named = [{"fine_tune": "ce", "methods": ["dense", "state"]}]
    entries = plan(methods=methods, fine_tune=["none", *named])
    assert [(k, t) for _, k, t, _ in found(entries)] == [
        ("dense", "none"),
        ("state", "none"),
        ("dense", "ce"),
        ("state", "ce"),
    ]


def test_a_pattern_means_those_of_its_methods_to_which_the_training_applies(plan):
    entries = plan(
        methods=[STATE, SIMBA],
        fine_tune=[
            "none",
            {"fine_tune": "kd", "methods": "s*"},
            {"fine_tune": "dense+sparse", "methods": "*"},
        ],
    )
    assert [c.method for c in trained(entries)] == ["state", "simba"]


def test_a_chain_whose_token_dropping_step_has_ratio_0_drops_none(plan):
    chain = {"method": "state+simba", "ratio": [0, 0.5], "state": {**STATE, "ratio": 0.25}}
    del chain["state"]["method"]
    methods = [chain, {"method": "magnitude", "ratio": 0.5}]
    entries = plan(methods=methods, fine_tune=["none", "kd", "dense+sparse"])
    assert [(c.method, c.fine_tune.kind) for c in trained(entries)] == [
        ("state", "kd"),
        ("magnitude", "kd"),
        ("state+simba", "dense+sparse"),
    ]


def test_models_and_methods_choose_what_is_trained_and_none_what_is_not(plan):
    entries = plan(
        models=["mamba2-130m", "mamba2-370m"],
        methods=[STATE, {"method": "magnitude", "ratio": 0.5}],
        fine_tune=[
            {"fine_tune": "none", "methods": "state"},
            {"fine_tune": "kd", "methods": ["magnitude"]},
            {"fine_tune": "kd", "methods": ["state"], "models": "*-370m"},
        ],
    )
    assert [(m[7:], k, t) for m, k, t, _ in found(entries)] == [
        ("130m", "dense", "none"),
        ("130m", "state", "none"),
        ("130m", "magnitude", "kd"),
        ("370m", "dense", "none"),
        ("370m", "state", "none"),
        ("370m", "magnitude", "kd"),
        ("370m", "state", "kd"),
    ]


def test_a_training_draws_so_that_each_seed_is_a_cell(plan):
    entries = plan(fine_tune=["none", "kd"], seeds=[0, 7])
    assert [(k, t, s) for _, k, t, s in found(entries)] == [
        ("dense", "none", 0),
        ("state", "none", 0),
        ("state", "kd", 0),
        ("state", "kd", 7),
    ]
    first, second = trained(entries)
    assert first.fine_tune == second.fine_tune
    assert first.id != second.id


def test_a_limit_on_documents_does_not_cut_the_loss_curve(read):
    _, _, entry = expand(read(fine_tune=["none", "kd"]), limit=3, device="a device")
    assert [(s.name, s.limit, s.device) for s in entry.suites] == [
        ("zero_shot", 3, None),
        ("training", None, None),
    ]


def test_every_trained_cell_has_its_loss_curve_and_no_other_has(plan):
    entries = plan(fine_tune=["none", "kd"], suites=["zero_shot", "latency"])
    suites = {e.cell.label.split(" · ", 1)[1]: [s.name for s in e.suites] for e in entries}
    assert suites == {
        "dense": ["zero_shot", "latency"],
        "state 0.5 (score=magnitude)": ["zero_shot", "latency"],
        "state 0.5 (score=magnitude) · kd": ["zero_shot", "latency", "training"],
    }


def test_a_suite_may_be_meant_for_some_trainings_and_always_measures_untrained_dense(plan):
    entries = plan(
        fine_tune=["none", "ce", {"fine_tune": "ce", "methods": "dense", "steps": 100}],
        suites=[
            "zero_shot",
            {"suite": "latency", "fine_tune": "none"},
            {"suite": "perplexity", "fine_tune": ["c*"]},
        ],
    )
    assert [
        (e.cell.method, e.cell.fine_tune.kind, [s.name for s in e.suites]) for e in entries
    ] == [
        ("dense", "none", ["zero_shot", "latency", "perplexity"]),
        ("state", "none", ["zero_shot", "latency"]),
        ("state", "ce", ["zero_shot", "perplexity", "training"]),
        ("dense", "ce", ["zero_shot", "perplexity", "training"]),
    ]


# Names, filters, reasons, costs.


def test_a_label_tells_what_is_not_as_the_preset_has_it(plan):
    entries = plan(
        fine_tune=[
            "kd",
            {"fine_tune": "kd", "steps": 200, "learning_rate": 0.0001, "data": "c4"},
            {"fine_tune": "kd", "steps": 200, "warmup": 0},
            {"fine_tune": "ce", "adapters": "all", "dtype": "float32"},
        ]
    )
    assert [cell.label.split(" · ")[2] for cell in trained(entries)] == [
        "kd",
        "kd (data=c4, learning_rate=0.0001, steps=200)",
        "kd (warmup=0, steps=200)",
        "ce (adapters=all, dtype=float32)",
    ]


def test_a_label_tells_the_computing_type_only_where_it_is_neither_the_presets_nor_the_cells(plan):
    given = ["dense+sparse", {"fine_tune": "dense+sparse", "dtype": "bfloat16"}]
    cells = trained(plan(methods=[SIMBA], fine_tune=["none", *given]))
    assert [cell.label.split(" · ")[2] for cell in cells] == [
        "dense+sparse",
        "dense+sparse (dtype=bfloat16)",
    ]


def test_a_label_names_ones_own_text_by_its_file_and_needs_no_known_kind(plan, tmp_path):
    (tmp_path / "book.txt").write_text("once")
    (cell,) = trained(plan(fine_tune=[{"fine_tune": "kd", "data": "book.txt"}]))
    assert cell.label.endswith(" · kd (data=book.txt)")
    assert training_label(FineTune("rl", {"a": 1}), "float32") == "rl (a=1)"


def test_no_two_cells_of_a_grid_have_the_same_label(plan):
    entries = plan(
        models=["mamba2-130m", "zoo-mamba2"],
        methods=[STATE, SIMBA],
        fine_tune=[
            "none",
            "kd",
            "ce",
            "dense+sparse",
            {"fine_tune": "kd", "dtype": "float32"},
            {"fine_tune": "dense+sparse", "dtype": "bfloat16"},
        ],
        seeds=[0, 1],
    )
    labels = [e.cell.label for e in entries]
    assert len(set(labels)) == len(labels) == len({e.cell.id for e in entries})


def test_only_chooses_by_training(plan):
    entries = plan(fine_tune=["none", "kd", "ce"])
    kept = select(entries, parse_filter(["fine_tune=kd"]))
    assert [e.cell.fine_tune.kind for e in kept] == ["kd"]
    kept = select(entries, parse_filter(["fine_tune!=none,suite=training"]))
    assert [(e.cell.fine_tune.kind, len(e.suites)) for e in kept] == [("kd", 1), ("ce", 1)]
    with pytest.raises(CommandError, match=r"no cell of the grid has fine_tune=kdd. Did you mean"):
        select(entries, parse_filter(["fine_tune=kdd"]))


def reasons(before, after):
    """Say what is new about the trained cells of a plan in a run folder that holds another."""
    history = History()
    for entry in before:
        history.cells[entry.cell.id] = entry.cell.to_json()
        for suite in entry.suites:
            history.suites[suite.id] = suite.to_json()
            history.committed[entry.cell.id, suite.id] = "attempt"
    return {d.text for d in decide(after, history) if d.entry.cell.fine_tune.kind != "none"}


def test_a_plan_says_which_training_is_new_and_how_it_differs(plan):
    plain, kd = plan(), plan(fine_tune=["none", "kd"])
    shorter = plan(fine_tune=["none", {"fine_tune": "kd", "steps": 200}])
    other = plan(fine_tune=["none", "kd"], methods=[{**STATE, "ratio": 0.6}])
    assert reasons(plain, kd) == {"to do: fine-tuning kd is new"}
    assert reasons(kd, kd) == {"done"}
    assert reasons(kd, shorter) == {"to do: fine-tuning is new: kd (steps=200)"}
    assert reasons(kd, other) == {"to do: ratio 0.6 is new"}


def test_a_training_costs_its_passes_over_its_tokens():
    lora = make_recipe("ce", steps=10, batch=2, length=8)
    assert cost.training_tokens(lora) == 160 * 2
    assert cost.training_tokens(lora.model_copy(update={"adapters": "all"})) == 160 * 3
    assert cost.training_tokens(make_recipe("kd", steps=10, batch=2, length=8)) == 160 * 3
    both = make_recipe("dense+sparse", steps=10, batch=2, length=8)
    assert cost.training_tokens(both) == 160 * 6
    assert cost.training_tokens(None) == 0


def test_a_plan_counts_the_training_until_its_loss_curve_is_there(plan):
    entries = plan(fine_tune=["none", "kd"])
    new = {d.entry.cell.fine_tune.kind: d.flops for d in decide(entries[1:], History())}
    per_token = new["none"] / cost.suite_tokens(entries[1].suites[0])
    recipe = entries[2].cell.fine_tune.recipe
    expected = new["none"] + per_token * cost.training_tokens(recipe)
    assert new["kd"] == pytest.approx(expected, rel=1e-6)
    cell, (tasks, curve) = entries[2].cell, entries[2].suites
    history = History()
    history.cells[cell.id], history.suites[curve.id] = cell.to_json(), curve.to_json()
    history.committed[cell.id, curve.id] = "attempt"
    history.seconds[cell.id, curve.id] = 0.01
    (decision,) = decide(entries[2:], history)
    assert decision.suites_to_do == (tasks,)
    assert decision.flops == new["none"]
    assert decision.seconds > 1


# The grids that come with it.


def cells_of(name):
    return expand(read_grid(GRIDS / f"{name}.yaml"))


def test_the_full_grid_trains_what_the_paper_trains_and_times_what_it_does_not():
    entries = cells_of("full")
    kinds = {e.cell.fine_tune.kind for e in entries}
    assert kinds == {"none", "kd"}
    assert {c.method for c in trained(entries)} == {"state", "head_dim", "merge"}
    assert len(trained(entries)) == 4 * 3 * 2
    for entry in entries:
        names = [s.name for s in entry.suites]
        assert ("latency" in names) == (entry.cell.fine_tune.kind == "none")


@pytest.mark.parametrize("name", ["loss-choice", "loss-choice-toy"])
def test_the_two_losses_are_compared_with_all_else_the_same(name):
    cells = trained(cells_of(name))
    models = {c.model.name for c in cells}
    for model in models:
        kd, ce = sorted(
            (c for c in cells if c.model.name == model),
            key=lambda c: c.fine_tune.kind,
            reverse=True,
        )
        assert (kd.fine_tune.kind, ce.fine_tune.kind) == ("kd", "ce")
        assert kd.steps == ce.steps
        assert kd.fine_tune.params == {**ce.fine_tune.params, "temperature": 1.0}


def test_the_losses_are_compared_on_a_cell_of_the_full_grid():
    full = {c.id for c in trained(cells_of("full"))}
    found = {c.fine_tune.kind: c.id for c in trained(cells_of("loss-choice"))}
    assert found["kd"] in full
    assert found["ce"] not in full


def test_simbas_training_is_the_papers():
    (cell,) = trained(cells_of("simba-fine-tune"))
    assert (cell.model.name, cell.method, cell.ratio) == ("mamba-370m", "simba", 0.9)
    assert cell.fine_tune.recipe == make_recipe("dense+sparse", split="train", dtype="float32")
