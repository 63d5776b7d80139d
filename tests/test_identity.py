"""Identity: an id changes when a number may change, and only then."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmbench.grid.fine_tune import make_recipe
from ssmbench.plan import cells
from ssmbench.plan.cells import Calibration, Cell, FineTune, Model, Step, Suite

# All records but Entry, which only says how a cell is run and is never hashed.
RECORDS = [
    value
    for value in vars(cells).values()
    if dataclasses.is_dataclass(value) and value is not cells.Entry
]

# Each field of each record, classed. IDENTITY: another value may give other numbers, so it is
# hashed. RUNTIME: it never does.
IDENTITY = {
    "Model": {"fingerprint", "tokenizer_fingerprint"},
    "Step": {"name", "version", "ratio", "params"},
    "Calibration": {"data", "samples", "length", "seed", "version", "split"},
    "FineTune": {"kind", "params"},  # params are all fields of the recipe but the kind
    "Cell": {"model", "steps", "calibration", "fine_tune", "seed", "dtype"},
    "Suite": {"name", "version", "params", "provides", "limit", "device"},
    "Resources": set(),
}
RUNTIME = {
    "Model": {"name", "source", "family", "tokenizer"},
    "Step": set(),
    "Calibration": {"path"},
    "FineTune": {"path"},
    "Cell": set(),
    "Suite": {"kind"},
    "Resources": {"num_cpus", "num_gpus", "memory_gb", "accelerator_type", "labels"},
}

HOW_TO_CLASS = """
{record}.{field} is not classed. Decide whether another value may give other numbers.
  It may:   declare it with identity() and add it to IDENTITY above. With the default None,
            which must mean what was true before, older runs keep their ids, since None is left
            out of the hash. Otherwise raise IDENTITY_VERSION in ssmbench/plan/cells.py and say
            in CHANGELOG.md that older runs are run again.
  Never:    declare it with runtime() and add it to RUNTIME above.
"""


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_every_field_is_classed_as_identity_or_runtime(record):
    name = record.__name__
    for field in dataclasses.fields(record):
        told = HOW_TO_CLASS.format(record=name, field=field.name)
        assert "identity" in field.metadata, told
        expected = IDENTITY if field.metadata["identity"] else RUNTIME
        assert field.name in expected[name], told
    known = {f.name for f in dataclasses.fields(record)}
    assert IDENTITY[name] | RUNTIME[name] == known
    assert not IDENTITY[name] & RUNTIME[name]


MODEL = Model("m", "folder:/a", "f00d", family="mamba", tokenizer="t", tokenizer_fingerprint="7e")
CELL = Cell(
    model=MODEL,
    steps=(Step("wanda", 1, 0.5, {"targets": "both", "sequential": True}),),
    calibration=Calibration("wikitext", 128, 64, 0),
    fine_tune=FineTune(),
    seed=0,
    dtype="float32",
)
SUITE = Suite("tasks", "quality", 1, {"tasks": ["a"]}, {"lm_eval": "0.4.13"}, limit=None)


def test_the_id_of_a_known_cell_stays():
    """If this fails, every finished run would be run again: see HOW_TO_CLASS."""
    assert cells.IDENTITY_VERSION == 1
    assert CELL.id == "61c8bebb4a2f"
    assert SUITE.id == "f7ad270027"


# One other value for each identity field; the test below fails for a field without one.
OTHER = {
    "model": dataclasses.replace(MODEL, fingerprint="beef"),
    "fingerprint": "beef",
    "tokenizer_fingerprint": "8e",
    "steps": (Step("wanda", 1, 0.6, {}),),
    "name": "other",
    "version": 2,
    "ratio": 0.25,
    "params": {"other": 1},
    "calibration": None,
    "data": "c4",
    "split": "validation",
    "samples": 3,
    "length": 3,
    "seed": 3,
    "fine_tune": FineTune("other"),
    "kind": "other",
    "dtype": "bfloat16",
    "provides": {"lm_eval": "0.5"},
    "limit": 10,
    "device": "other",
}


def variants(record):
    """Give (field name, record with another value there) for each identity field."""
    for name in IDENTITY[type(record).__name__]:
        yield name, dataclasses.replace(record, **{name: OTHER[name]})


def test_each_identity_field_of_a_cell_and_its_parts_changes_the_id():
    changed = [cell.id for _, cell in variants(CELL)]
    changed += [dataclasses.replace(CELL, model=m).id for _, m in variants(MODEL)]
    changed += [dataclasses.replace(CELL, steps=(s,)).id for _, s in variants(CELL.steps[0])]
    changed += [dataclasses.replace(CELL, calibration=c).id for _, c in variants(CELL.calibration)]
    assert CELL.id not in changed


TUNED = dataclasses.replace(CELL, fine_tune=FineTune("kd", make_recipe("kd").params))


def test_the_id_of_a_known_trained_cell_stays():
    """If this fails, every finished training would be done again: see HOW_TO_CLASS.

    A new field of the recipe must be left out of its params, by None, where it means what was
    true before.
    """
    assert TUNED.id == "6f7c9667a745"
    params = make_recipe("dense+sparse", steps=20, data="tinyworld").params
    tuned = dataclasses.replace(CELL, fine_tune=FineTune("dense+sparse", params))
    assert tuned.id == "b1fd19d6345d"


def test_each_value_of_a_recipe_changes_the_id():
    params = TUNED.fine_tune.params
    changed = [{**params, name: "other"} for name in params]
    changed += [{k: v for k, v in params.items() if k != name} for name in params]
    ids = {dataclasses.replace(CELL, fine_tune=FineTune("kd", p)).id for p in changed}
    assert len(ids) == 2 * len(params)
    assert TUNED.id not in ids


def test_each_identity_field_of_a_suite_changes_its_id():
    assert SUITE.id not in {suite.id for _, suite in variants(SUITE)}


def test_names_and_places_do_not_change_the_id():
    moved = Model("n", "hub:x/y", "f00d", None, "elsewhere", tokenizer_fingerprint="7e")
    text = dataclasses.replace(CELL.calibration, path="/elsewhere")
    assert dataclasses.replace(CELL, model=moved, calibration=text).id == CELL.id
    tuned = dataclasses.replace(TUNED.fine_tune, path="/elsewhere")
    assert dataclasses.replace(TUNED, fine_tune=tuned).id == TUNED.id


def test_a_field_that_is_none_is_left_out_so_that_a_new_one_changes_no_id():
    assert "version" not in cells.identity_of(CELL)["calibration"]
    assert "limit" not in cells.identity_of(SUITE)


def test_two_steps_in_another_order_are_another_cell():
    first, second = Step("a", 1, 0.5, {}), Step("b", 1, 0.5, {})
    one = dataclasses.replace(CELL, steps=(first, second))
    assert one.id != dataclasses.replace(CELL, steps=(second, first)).id


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
params = st.dictionaries(st.text(min_size=1), json_values, max_size=4)
steps = st.builds(
    Step,
    name=st.text(min_size=1),
    version=st.integers(1, 99),
    ratio=st.floats(0, 1, exclude_max=True),
    params=params,
)
texts = st.builds(
    Calibration,
    data=st.text(),
    samples=st.integers(1),
    length=st.integers(1),
    seed=st.integers(0),
    version=st.none() | st.integers(),
    path=st.none() | st.text(),
    split=st.none() | st.text(),
)
some_cells = st.builds(
    Cell,
    model=st.builds(Model, st.text(), st.text(), st.text(), st.none() | st.text()),
    steps=st.lists(steps, min_size=1, max_size=3).map(tuple),
    calibration=st.none() | texts,
    fine_tune=st.builds(FineTune, st.text(), params, st.none() | st.text()),
    seed=st.integers(0),
    dtype=st.text(),
)


@given(some_cells)
def test_a_cell_survives_the_trip_through_json(cell):
    again = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert again == cell
    assert again.id == cell.id
    assert hash(again) == hash(cell)


@given(params)
def test_the_order_of_parameters_does_not_matter(given_params):
    turned = dict(reversed(given_params.items()))
    one, two = (Step("m", 1, 0.5, p) for p in (given_params, turned))
    assert dataclasses.replace(CELL, steps=(one,)).id == dataclasses.replace(CELL, steps=(two,)).id


@given(params, st.none() | st.integers(1))
def test_a_suite_survives_the_trip_through_json(given_params, limit):
    suite = dataclasses.replace(SUITE, params=given_params, limit=limit)
    again = Suite.from_json(json.loads(json.dumps(suite.to_json())))
    assert again == suite
    assert again.id == suite.id
