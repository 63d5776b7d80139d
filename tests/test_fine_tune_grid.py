"""`fine_tune` in a grid: its forms, every mistake at its place, and the cells that it makes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ssmbench.errors import CommandError, GridError
from ssmbench.execute.prepare import Request, prepare
from ssmbench.grid.fine_tune import KINDS, SPLITS, Recipe, make_recipe, presets_for
from ssmbench.grid.fine_tune_entry import KEYS, FineTuneEntry, kinds, settings
from ssmbench.grid.read import read_grid
from ssmbench.plan.cells import FineTune

GOOD = """\
models: [mamba2-130m]
methods: [{method: state, ratio: 0.5, score: magnitude}]
suites: [zero_shot]
"""
STATE = {"method": "state", "ratio": 0.5, "score": "magnitude"}
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
def problems(tmp_path):
    """Give what is wrong with GOOD and more lines, without the file's name."""

    def told(lines, base=GOOD):
        path = tmp_path / "grid.yaml"
        path.write_text(base + lines + "\n")
        with pytest.raises(GridError) as caught:
            read_grid(path)
        return [p.removeprefix(f"{path}:") for p in caught.value.problems]

    return told


# The recipe and its presets.


def test_the_pruner_preset_is_the_papers():
    recipe = make_recipe("kd")
    expected = {
        "adapters": "lora",
        "rank": 8,
        "alpha": 16,
        "dropout": 0.1,
        "learning_rate": 5e-5,
        "weight_decay": 0.01,
        "schedule": "linear",
        "warmup": 500,
        "batch": 6,
        "length": 2048,
        "steps": 10_000,
        "dtype": "bfloat16",
        "temperature": 1,
        "data": "wikitext",
    }
    assert expected.items() <= recipe.params.items()
    assert recipe.ratios is None


def test_the_simba_preset_is_the_papers():
    recipe = make_recipe("dense+sparse")
    expected = {
        "steps": 400,
        "learning_rate": 5e-5,
        "warmup": 40,
        "schedule": "cosine",
        "ratios": [0, 0.9],
        "data": "minipile",
        "adapters": "all",
    }
    assert expected.items() <= recipe.params.items()
    assert (recipe.rank, recipe.dropout, recipe.temperature, recipe.dtype) == (None,) * 4


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_preset_that_leaves_nothing_open_which_applies(kind):
    (own, *_) = presets_for(kind)
    recipe = make_recipe(kind)
    assert recipe == make_recipe(kind, own)
    missing = {name for name in Recipe.model_fields if getattr(recipe, name) is None}
    lora = {"rank", "alpha", "dropout", "targets"}
    others = {"temperature": {"kd"}, "ratios": {"dense+sparse"}}
    expected = {"split", "data_version", *(k for k, owners in others.items() if kind not in owners)}
    expected |= lora if recipe.adapters == "all" else set()
    assert missing - {"dtype"} == expected


def test_warm_up_is_the_presets_share_of_the_steps_unless_it_is_given():
    assert make_recipe("kd", steps=200).warmup == 10
    assert make_recipe("dense+sparse", steps=100).warmup == 10
    assert make_recipe("kd", steps=200, warmup=0).warmup == 0
    assert make_recipe("kd", warmup=7).warmup == 7


def test_low_rank_values_come_back_with_the_adapters():
    assert make_recipe("ce", adapters="all").rank is None
    assert make_recipe("dense+sparse", adapters="lora").rank == 8


@given(
    kind=st.sampled_from(KINDS),
    steps=st.integers(2, 10**6),
    rate=st.floats(1e-9, 1),
    adapters=st.sampled_from(["lora", "all"]),
)
def test_a_recipe_is_read_back_from_a_cells_parameters(kind, steps, rate, adapters):
    recipe = make_recipe(kind, steps=steps, learning_rate=rate, adapters=adapters)
    params = json.loads(json.dumps(recipe.params))
    assert None not in params.values()
    assert FineTune(kind, params).recipe == recipe


def test_nothing_is_trained_by_none():
    assert FineTune().recipe is None
    with pytest.raises(ValueError, match="'none' trains on no text"):
        FineTuneEntry(fine_tune="none").data_for(zoo=True)


@pytest.mark.parametrize("changes", [{"steps": 0}, {"warmup": 3, "steps": 3}, {"batch": None}])
def test_a_recipe_that_cannot_be_is_refused(changes):
    values = {**make_recipe("kd").model_dump(), **changes}
    with pytest.raises(ValidationError):
        Recipe.model_validate(values)


def test_an_entry_can_set_every_value_of_a_recipe_but_what_follows_from_its_text():
    assert set(settings()) == set(Recipe.model_fields) - {"kind", "data_version"}
    assert set(settings()).isdisjoint(KEYS)
    assert kinds() == ("none", *KINDS)


# The forms.


def test_a_name_and_a_mapping_mean_the_same(read):
    short = read(fine_tune=["none", "kd"])
    long = read(fine_tune=[{"fine_tune": "none"}, {"fine_tune": "kd"}])
    assert short.grid == long.grid
    assert read().grid.fine_tune == (FineTuneEntry(fine_tune="none"),)


def test_the_split_of_the_zoos_text_is_one_that_nothing_else_reads():
    from ssmbench.plan.resolve import SPLITS as CALIBRATION
    from ssmbench.zoo import tinyworld

    split = SPLITS["tinyworld"]
    assert split != CALIBRATION["tinyworld"]
    kept = {
        b for name, part in tinyworld.SPLITS.items() if name not in (split, "train") for b in part
    }
    assert kept.isdisjoint(tinyworld.SPLITS[split])


# Mistakes.


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("lora", "4:19: fine_tune[1]: found 'lora' (text); expected one of these."),
        ("kdd", "found 'kdd' (text); expected one of these. Did you mean 'kd'? Known: ce, dense+s"),
        ("3", "fine_tune[1]: found 3 (a number); expected none, kd, ce, dense+sparse or a mapping"),
        ("{steps: 3}", "fine_tune[1]: the key 'fine_tune' is missing; expected `none`; `kd`"),
        ("{fine_tune: kd, stps: 3}", "the key 'stps' is unknown. Did you mean 'steps'?"),
        (
            "{fine_tune: kd, steps: 0}",
            "fine_tune[1].steps: found 0 (a number); expected at least 1",
        ),
        ("{fine_tune: kd, length: 1}", "fine_tune[1].length: found 1 (a number); expected at lea"),
        ("{fine_tune: kd, dropout: 1}", "dropout: found 1 (a number); expected less than 1"),
        ("{fine_tune: kd, learning_rate: 0}", "learning_rate: found 0 (a number); expected more t"),
        (
            "{fine_tune: kd, targets: mlp}",
            "targets: found 'mlp' (text); expected one of these. Did",
        ),
        ("{fine_tune: kd, dtype: int8}", "dtype: found 'int8' (text); expected one of these."),
        (
            "{fine_tune: none, steps: 3}",
            "4:37: fine_tune[1].steps: 'none' trains nothing; expected",
        ),
        ("{fine_tune: none, preset: simba}", "preset: 'none' trains nothing; expected no preset"),
        ("{fine_tune: kd, preset: prunr}", "preset: no preset is called 'prunr'. Did you mean 'pr"),
        (
            "{fine_tune: kd, preset: simba}",
            "4:43: fine_tune[1].preset: 'simba' is for dense+sparse; expected pruner for kd",
        ),
        (
            "{fine_tune: ce, temperature: 2}",
            "4:35: fine_tune[1].temperature: ce has no temperature, only kd has; expected none",
        ),
        (
            "{fine_tune: kd, ratios: [0, .5]}",
            "fine_tune[1].ratios: kd has no ratios, only dense+sparse has; expected none",
        ),
        (
            "{fine_tune: kd, adapters: all, rank: 4}",
            "fine_tune[1].rank: every weight is trained, so that there is no rank; expected none, "
            "or 'adapters: lora'",
        ),
        (
            "{fine_tune: kd, warmup: 500, steps: 200}",
            "4:43: fine_tune[1].warmup: the warm-up of 500 steps is not shorter than the training "
            "of 200; expected fewer",
        ),
        (
            "{fine_tune: kd, data: wikitxt}",
            "4:41: fine_tune[1].data: there is no text called 'wikitxt', nor a file or folder "
            "beside the grid. Did you mean 'wikitext'?",
        ),
        (
            "{fine_tune: kd, data: wikitext, split: test}",
            "4:58: fine_tune[1].split: found 'test'; expected 'train' or nothing: other splits of "
            "wikitext are for evaluation",
        ),
        (
            "{fine_tune: kd, data: tinyworld, split: evaluation}",
            "split: found 'evaluation'; expected 'fine_tune' or nothing: other splits of tinyworld",
        ),
        ("{fine_tune: kd, split: test}", "split: found 'test' without data; expected 'data' besid"),
        (
            "{fine_tune: kd, data: ., split: train}",
            "split: '.' is no text with known splits; expected no split",
        ),
        (
            "{fine_tune: kd, methods: [stat]}",
            "fine_tune[1].methods[0]: no method of the grid is called 'stat'. Did you mean",
        ),
        ("{fine_tune: kd, methods: 'm*'}", "methods: no method of the grid matches 'm*'. Known: d"),
        ("{fine_tune: kd, models: gone}", "models: no model of the grid is called 'gone'."),
        (
            "{fine_tune: kd, methods: dense}",
            "4:44: fine_tune[1].methods: 'dense' is its own teacher, of whom it can learn nothing; "
            "expected ce",
        ),
        (
            "{fine_tune: ce, methods: 'd*'}",
            "methods: 'd*' matches 'dense' alone; expected it by its name, to be trained",
        ),
        (
            "{fine_tune: dense+sparse, methods: [state, dense]}",
            "fine_tune[1].methods[1]: 'dense' drops no tokens, as dense+sparse does; expected kd",
        ),
        (
            "dense+sparse",
            "4:19: fine_tune[1]: by this dense+sparse nothing is trained: no method of the grid "
            "drops tokens; expected one that does",
        ),
    ],
)
def test_a_training_that_cannot_be_meant_is_refused(problems, entry, expected):
    told = problems(f"fine_tune: [none, {entry}]")
    assert any(expected in problem for problem in told), told
    assert len(told) == (2 if "[state, dense]" in entry else 1)


TOKENS = GOOD.replace("methods: [", "methods: [{method: simba, ratio: 0.5}, ")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            "{fine_tune: kd, methods: [simba]}",
            "4:45: fine_tune[1].methods[0]: 'simba' drops tokens, but kd trains with all of them; "
            "expected dense+sparse",
        ),
        (
            "{fine_tune: ce, methods: 'si*'}",
            "fine_tune[1].methods: every method that matches 'si*' drops tokens, but ce trains",
        ),
        (
            "{fine_tune: dense+sparse, methods: state}",
            "fine_tune[1].methods: 'state' drops no tokens, as dense+sparse does; expected kd or",
        ),
        (
            "{fine_tune: dense+sparse, ratios: [0.9, 0.1]}",
            "4:53: fine_tune[1].ratios: found ratios [0.9, 0.1]; expected the lowest, then the h",
        ),
        (
            "{fine_tune: dense+sparse, ratios: [0.9]}",
            "ratios: found a list of 1; expected at least 2",
        ),
        ("{fine_tune: dense+sparse, ratios: 0.9}", "ratios: found 0.9 (a number); expected a list"),
        (
            "{fine_tune: dense+sparse, ratios: [0.9, 1]}",
            "fine_tune[1].ratios[1]: found 1 (a number); expected less than 1",
        ),
        (
            "{fine_tune: dense+sparse, rank: 2}",
            "rank: every weight is trained, so that there is no rank",
        ),
        (
            "{fine_tune: dense+sparse, preset: pruner}",
            "preset: 'pruner' is for kd and ce; expected simba for dense+sparse",
        ),
    ],
)
def test_what_drops_tokens_is_trained_dropping_them_and_nothing_else_is(problems, entry, expected):
    (told,) = problems(f"fine_tune: [none, {entry}]", TOKENS)
    assert expected in told


def test_trainings_that_no_method_of_the_grid_needs_are_refused(problems):
    alone = GOOD.replace("state", "simba").replace(", score: magnitude", "")
    (told,) = problems("fine_tune: [none, kd]", alone)
    assert "by this kd nothing is trained: no method of the grid removes anything but" in told
    (told,) = problems("fine_tune: [none, ce]", GOOD.replace("ratio: 0.5", "ratio: 0"))
    assert "by this ce nothing is trained" in told
    elsewhere = TOKENS.replace("[mamba2-130m]", "[mamba2-130m, mamba2-370m]")
    elsewhere = elsewhere.replace("simba,", "simba, models: mamba2-370m,")
    (told,) = problems("fine_tune: [none, {fine_tune: dense+sparse, models: '*-130m'}]", elsewhere)
    assert (
        "by this dense+sparse nothing is trained: no method that it is for is used on a model "
        "that it is for; expected one" in told
    )


def test_a_method_that_would_be_neither_trained_nor_not_is_refused(problems):
    (told,) = problems("fine_tune: [kd]", TOKENS)
    assert told.startswith(
        "2:20: methods[0].method: no entry of fine_tune is for 'simba' on 'mamba2-130m', which "
        "drops tokens, so that it would never be measured; expected 'none' or dense+sparse for it"
    )
    two = GOOD.replace("[mamba2-130m]", "[mamba2-130m, mamba2-370m]")
    (told,) = problems("fine_tune: [{fine_tune: kd, models: '*-130m'}]", two)
    assert "no entry of fine_tune is for 'state' on 'mamba2-370m', so that it would" in told
    assert told.endswith("expected 'none', kd or ce for it")


@pytest.mark.parametrize(
    ("models", "entry", "expected"),
    [
        (
            "mamba2-130m",
            "kd, targets: mlps",
            "4:44: fine_tune[1].targets: 'mamba2-130m' has no ML",
        ),
        ("zoo-gpt-neox", "kd, targets: mixers", "'zoo-gpt-neox' has no SSM mixers to adapt; expec"),
        ("{path: tiny}", "kd, targets: mlps", "'tiny' has no MLPs to adapt; expected other targe"),
        ("zoo-mamba2, zoo-phi-mamba", "ce, targets: mlps", "'zoo-mamba2' has no MLPs to adapt"),
        ("mamba2-130m", "ce, methods: dense, targets: mlps", "'mamba2-130m' has no MLPs to adapt"),
        ("mamba2-130m", "kd, targets: all", None),
        ("zoo-phi-mamba", "kd, targets: mlps", None),
        ("zoo-mamba2, zoo-phi-mamba", "kd, targets: mlps, models: zoo-phi-*", None),
        ("{path: someone/unknown}", "kd, targets: mlps", None),
    ],
)
def test_targets_that_a_model_lacks_are_refused_where_it_is_known(
    problems, tmp_path, models, entry, expected
):
    (tmp_path / "tiny").mkdir()
    config = {"d_model": 64, "n_layer": 2, "vocab_size": 96, "ssm_cfg": {"layer": "Mamba2"}}
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config))
    base = GOOD.replace("mamba2-130m", models).replace("state", "magnitude")
    base = base.replace(", score: magnitude", "")
    lines = f"fine_tune: [none, {{fine_tune: {entry}}}]"
    if expected is None:
        path = tmp_path / "grid.yaml"
        path.write_text(base + lines)
        assert read_grid(path).grid.fine_tune[1].targets
    else:
        (told,) = problems(lines, base)
        assert expected in told


def test_a_model_given_on_the_command_line_is_not_looked_up_for_its_targets(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GOOD + "fine_tune: [none, {fine_tune: kd, targets: mlps}]")
    assert read_grid(path, models={"mamba2-130m": "zoo:phi-mamba"}).grid.fine_tune


@pytest.mark.parametrize("value", ["3", "kd", "{kd: 1}", "true", "[[kd]]", "[null]", "['']"])
def test_no_form_of_fine_tune_ends_in_anything_but_a_message(problems, value):
    assert problems(f"fine_tune: {value}")


def test_the_same_training_twice_is_refused_also_where_its_preset_is_named(problems):
    for second in ("kd", "{fine_tune: kd, preset: pruner}"):
        (told,) = problems(f"fine_tune:\n  - kd\n  - {second}")
        assert told.startswith("6:5: fine_tune[1]: the same training is listed a second time")


def test_a_suite_for_a_training_that_the_grid_lacks_is_refused(problems):
    base = GOOD.replace("[zero_shot]", "[zero_shot, {suite: latency, fine_tune: kdd}]")
    (told,) = problems("fine_tune: [none, kd]", base)
    assert (
        "suites[1].fine_tune: no training of the grid is called 'kdd'. Did you mean 'kd'?" in told
    )


def test_a_trained_method_that_no_suite_measures_is_refused(problems):
    base = GOOD.replace("[zero_shot]", "[{suite: zero_shot, fine_tune: none}]")
    (told,) = problems("fine_tune: [none, kd]", base)
    assert "methods[0].method: no suite of the grid measures 'state' after kd on 'mamba2" in told
    base = GOOD.replace("[zero_shot]", "[{suite: zero_shot, fine_tune: kd}]")
    (told,) = problems("fine_tune: [none, kd]", base)
    assert "no suite of the grid measures 'state' on 'mamba2-130m'" in told


def test_the_loss_curve_is_no_suite_to_be_named(problems):
    (told,) = problems("", GOOD.replace("[zero_shot]", "[zero_shot, training]"))
    assert told == (
        "3:21: suites[1]: every trained cell has 'training' by itself; expected it not to be listed"
    )
    (told,) = problems("", GOOD.replace("[zero_shot]", "[zero_shot, trainin]"))
    assert "no suite is called 'trainin'." in told
    assert "training" not in told.partition("Known:")[2]


def test_all_mistakes_of_the_trainings_are_told_at_once(problems):
    told = problems(
        """\
fine_tune:
  - kdd
  - {fine_tune: kd, steps: 0, data: gone, temprature: 2}
  - {fine_tune: ce, preset: simba, temperature: 1, methods: dens}
checkpoint_min: 0"""
    )
    assert [t.split(":", 1)[0] for t in told] == ["5", "6", "6", "6", "7", "7", "7", "8"]


@pytest.mark.parametrize("data", ["book.txt", "copy.txt", "texts"])
def test_a_text_that_a_suite_scores_is_not_trained_on(problems, tmp_path, data):
    (tmp_path / "texts").mkdir()
    for name in ("book.txt", "copy.txt", "texts/a.txt"):
        (tmp_path / name).write_text("once upon a time")
    base = GOOD.replace("[zero_shot]", "[zero_shot, {suite: perplexity, data: book.txt}]")
    (told,) = problems(f"fine_tune: [none, {{fine_tune: ce, data: {data}}}]", base)
    assert told == (
        f"4:41: fine_tune[1].data: the suite perplexity scores {tmp_path / 'book.txt'}; expected a "
        "text that no suite scores"
    )


def test_a_local_copy_of_a_text_that_a_suite_scores_is_not_trained_on(tmp_path):
    data = tmp_path / "data" / "wikitext-2-raw"
    data.mkdir(parents=True)
    (data / "wiki.test.raw").write_text("once upon a time")
    (tmp_path / "mine.txt").write_text("once upon a time")
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        GOOD.replace("[zero_shot]", "[{suite: perplexity, data: wikitext}]")
        + "fine_tune: [none, {fine_tune: ce, data: mine.txt}]\n"
    )
    with pytest.raises(CommandError, match=r"training text .*mine\.txt: the suite perplexity scor"):
        prepare(Request(grid, data=tmp_path / "data"))
    (tmp_path / "mine.txt").write_text("something else")
    assert len(prepare(Request(grid, data=tmp_path / "data")).entries) == 3


def test_a_known_text_whose_local_files_a_suite_scores_is_neither_trained_nor_calibrated_on(
    tmp_path,
):
    local = tmp_path / "data" / "c4"
    local.mkdir(parents=True)
    (local / "a.jsonl").write_text('{"text": "once"}')
    grid = tmp_path / "grid.yaml"
    base = GOOD.replace("[zero_shot]", "[{suite: perplexity, data: data/c4/a.jsonl}]")
    for use, key in (
        ("training", "fine_tune: [none, {fine_tune: ce, data: c4}]\n"),
        ("calibration", "calibration: {data: c4}\n"),
    ):
        grid.write_text(base.replace(", score: magnitude", "") + key)
        assert prepare(Request(grid)).entries
        with pytest.raises(CommandError, match=rf"{use} text .*c4: the suite perplexity scores"):
            prepare(Request(grid, data=tmp_path / "data"))


def test_known_texts_are_scored_and_trained_on_in_different_splits(read):
    for data in ("wikitext", "tinyworld"):
        suites = [{"suite": "perplexity", "data": data}]
        read(suites=suites, fine_tune=["none", {"fine_tune": "ce", "data": data}])
