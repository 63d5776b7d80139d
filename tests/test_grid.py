"""Reading a grid: what is accepted, and that every mistake is told at its place."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ssmbench import plugins
from ssmbench.errors import USAGE, CommandError, GridError
from ssmbench.grid import check
from ssmbench.grid.catalogue import Known, catalogue
from ssmbench.grid.check_texts import TEXTS
from ssmbench.grid.read import read_grid
from ssmbench.grid.schema import METHOD_KEYS, Grid, json_schema

GOOD = """\
models: [mamba2-130m]
methods: [dense]
suites: [zero_shot]
"""


@pytest.fixture
def grid(tmp_path):
    """Write a grid file."""

    def write(text, name="grid.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def folder(tmp_path):
    """A model folder as far as planning looks into one."""
    path = tmp_path / "tiny"
    path.mkdir()
    config = {"d_model": 64, "n_layer": 2, "vocab_size": 96, "ssm_cfg": {"layer": "Mamba2"}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def problems(path):
    """Give a wrong grid's problems without the file's name."""
    with pytest.raises(GridError) as caught:
        read_grid(path)
    assert caught.value.exit_code == USAGE
    return [p.removeprefix(f"{path}:") for p in caught.value.problems]


def test_a_short_grid_has_defaults_for_the_rest(grid):
    file = read_grid(grid(GOOD))
    assert file.name == "grid"
    assert file.text == GOOD
    assert file.grid.seeds == (0,)
    assert file.grid.dtype == "float32"
    assert file.grid.isolate
    assert json.loads(json.dumps(file.resolved)) == file.resolved


def test_shorthands_and_mappings_mean_the_same(grid):
    short = read_grid(grid("models: [mamba-130m]\nmethods: [dense]\nsuites: [zero_shot]\n"))
    long = """
models: [{name: mamba-130m}]
methods: [{method: dense}]
suites: [{suite: zero_shot}]
"""
    assert read_grid(grid(long)).grid == short.grid


def test_one_ratio_and_a_list_of_one_mean_the_same(grid):
    one = GOOD.replace("[dense]", "[{method: random, ratio: 0.5}]")
    many = GOOD.replace("[dense]", "[{method: random, ratio: [0.5]}]")
    assert read_grid(grid(one)).grid == read_grid(grid(many)).grid


def test_yaml_1_2_numbers_are_numbers(grid):
    text = GOOD.replace("[dense]", "[{method: random, ratio: [1e-4, 0, .5]}]")
    assert read_grid(grid(text)).grid.methods[0].ratio == (1e-4, 0.0, 0.5)


def test_five_mistakes_give_five_messages_with_their_places(grid):
    text = """\
models: [mamba2-130]
methods:
  - {method: wanda, ratio: [0.5, 1.7]}
  - {method: wanda, ratio: 0.5, targets: in_prj}
suits: [zero_shot]
suites: [zero_shott]
"""
    found = problems(grid(text))
    assert len(found) == 5
    assert found[0].startswith(
        "1:10: models[0]: no model is called 'mamba2-130'. Did you mean 'mamba2-130m'? Known: "
    )
    assert found[1] == "3:34: methods[0].ratio[1]: found 1.7 (a number); expected less than 1"
    assert found[2].startswith("4:42: methods[1].targets: found 'in_prj' (text); expected one of")
    assert "Did you mean 'in_proj'?" in found[2]
    assert found[3].startswith("5:1: the key 'suits' is unknown. Did you mean 'suites'?")
    assert found[4].startswith("6:10: suites[0]: no suite is called 'zero_shott'. Did you mean")


def test_the_error_ends_with_the_count(grid):
    with pytest.raises(GridError, match=r"1 problem; nothing was run\.$"):
        read_grid(grid(GOOD + "sedes: [1]\n"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("seeds: [0, 1.5]", "4:12: seeds[1]: found 1.5 (a number); expected a whole number"),
        ("seeds: [0, -1]", "4:12: seeds[1]: found -1 (a number); expected at least 0"),
        ("seeds: [0, true]", "4:12: seeds[1]: found true (true or false); expected a whole number"),
        ("seeds: []", "4:8: seeds: found an empty list; expected at least one item"),
        ("seeds: 0", "4:8: seeds: found 0 (a number); expected a list"),
        (
            "seeds: [3, 3]",
            "4:12: seeds[1]: the same seed is listed a second time (first on line 4); "
            "expected it once",
        ),
        ("isolate: yes", "4:10: isolate: found 'yes' (text); expected true or false"),
        ("name: ''", "4:7: name: found '' (text); expected text that is not empty"),
        ("timeout_min: 0", "4:14: timeout_min: found 0 (a number); expected more than 0"),
        ("timeout_min: .inf", "4:14: timeout_min: the value is infinite; expected a finite number"),
        ("batch_tokens: big", "4:15: batch_tokens: found 'big' (text); expected a whole number"),
        ("resources: 3", "4:12: resources: found 3 (a number); expected a mapping (key: value)"),
        (
            "resources: {num_cpus: -1}",
            "4:23: resources.num_cpus: found -1 (a number); expected at least 0",
        ),
        (
            "backend: cuda",
            "4:10: backend: found 'cuda' (text); expected one of these. Known: auto, mamba_ssm, "
            "torch, triton.",
        ),
        (
            "backend: triton",
            "4:10: backend: 'triton' needs a GPU, but resources.num_gpus is 0; expected "
            "num_gpus: 1, or backend: auto",
        ),
        (
            "backend: mamba_ssm\nresources: {num_gpus: 1, timing: {num_gpus: 0}}",
            "4:10: backend: 'mamba_ssm' needs a GPU, but resources.timing.num_gpus is 0; expected "
            "num_gpus: 1, or backend: auto",
        ),
        (
            "resources: {labels: {zone: 1}}",
            "4:28: resources.labels.zone: found 1 (a number); expected text",
        ),
        (
            "fine_tune: [lora]",
            "4:13: fine_tune[0]: found 'lora' (text); expected one of these. Known: ce, dense+sp",
        ),
        ("fine_tune: kd", "4:12: fine_tune: found 'kd' (text); expected a list"),
        ("fine_tune: []", "4:12: fine_tune: found an empty list; expected at least one item"),
        ("checkpoint_min: 0", "4:17: checkpoint_min: found 0 (a number); expected more than 0"),
        (
            "dtype: 2024-01-01",
            "4:8: dtype: a date value; expected text, a number, true or false; quote it",
        ),
        (
            "resources: {labels: {' ': 2024-01-01}}",
            "4:27: resources.labels.' ': a date value; expected text, a number, true or false",
        ),
        ("1: x", "4:1: the key is 1 (a number); expected text"),
        ("seeds: [!odd 3]", "4:9: seeds[0]: a value with the tag !odd; expected text"),
    ],
)
def test_a_wrong_value_is_told_with_what_was_found_and_expected(grid, line, expected):
    found = problems(grid(GOOD + line + "\n"))
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("mamab", "no model is called 'mamab'"),
        ("'zoo-*'", "'zoo-*' is a pattern; expected a name, written out"),
        ("3", "found 3 (a number); expected a model's name or a mapping such as"),
        ("{}", "the mapping has neither 'name' nor 'path'; expected at least one of them"),
        ("{pth: x, name: mamba-130m}", "the key 'pth' is unknown. Did you mean 'path'?"),
        (f"{{path: ./{300 * 'x'}}}", "models[1].path: there is no folder './xxxx"),
        ("{path: ./gone}", "models[1].path: there is no folder './gone'; expected a folder"),
        ("{path: a/b/c}", "models[1].path: there is no folder 'a/b/c'; expected a folder"),
        ("{path: tiny/gone}", "models[1].path: there is no folder 'tiny/gone'"),
        ("{path: tiny, family: mamba}", "found a model of the family mamba2; expected mamba"),
        ("{path: tiny, family: mambo}", "no family is called 'mambo'. Did you mean 'mamba'?"),
        ("{path: tiny, tokenizer: ./gone}", "models[1].tokenizer: there is no folder './gone'"),
        ("{name: mamba-130m, family: mamba2}", "'mamba-130m' is of the family mamba"),
        ("mamba2-130m", "the same model is listed a second time (first on line 1)"),
        ("{path: empty}", "found no config.json"),
    ],
)
def test_a_model_that_cannot_be_meant_is_refused(grid, folder, entry, expected):
    (folder.parent / "empty").mkdir()
    found = problems(grid(GOOD.replace("[mamba2-130m]", f"[mamba2-130m, {entry}]")))
    assert len(found) == 1
    assert expected in found[0]


def test_a_known_model_of_a_family_that_is_not_there_is_refused(grid, monkeypatch):
    other = Known("far", "a/far", "rwkv")
    monkeypatch.setattr(check, "catalogue", lambda: {**catalogue(), "far": other})
    (found,) = problems(grid(GOOD.replace("mamba2-130m", "far")))
    assert "'far' is of the family rwkv, which this version of ssmbench cannot run yet" in found


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("densee", "no method is called 'densee'. Did you mean 'dense'?"),
        ("wanda", "'wanda' has no ratio; expected one or a list, each in [0, 1)"),
        ("{method: wanda, ratio: null}", "'wanda' has no ratio; expected one or a list"),
        ("{method: dense, ratio: 0.5}", "'dense' removes nothing; expected no ratio"),
        ("{method: random, ratio: []}", "found an empty list; expected at least one item"),
        ("{method: random, ratio: half}", "found 'half' (text); expected a list"),
        ("{method: random, ratio: .nan}", "not a number (nan); expected a finite number"),
        ("{method: random, ratio: [.5, .5]}", "the same ratio is listed a second time"),
        ("{method: random, ratio: .5, targts: both}", "unknown. Did you mean 'targets'?"),
        ("{ratio: 0.5}", "the key 'method' is missing; expected a method's name"),
        ("{method: random+dense, ratio: .5}", "expected it alone, not in a chain"),
        ("{method: wanda+wanda, ratio: .5}", "'wanda' stands 2 times in the chain"),
        ("{method: wanda+, ratio: .5}", "no method is called ''"),
        ("{method: random+wanda}", "found random and wanda without a ratio; expected 'ratio'"),
        ("{method: random+wanda, random: {ratio: .1}}", "found wanda without a ratio"),
        ("{method: random+wanda, ratio: .5, wnda: {}}", "unknown. Did you mean 'wanda'?"),
        ("{method: random+wanda, ratio: .5, wanda: 3}", "expected a mapping of wanda's parameters"),
        ("{method: random+wanda, ratio: .5, random: {ratio: 1}}", "expected one number in [0, 1)"),
        ("{method: random+wanda, ratio: .5, wanda: {ratio: .1}}", "expected it to take this one"),
        (
            "{method: random+wanda, ratio: .5, wanda: {targets: x}}",
            "methods[1].wanda.targets: found 'x' (text); expected one of these",
        ),
        (
            "{method: wanda, ratio: .5, models: [mamba2-13m]}",
            "methods[1].models[0]: no model of the grid is called 'mamba2-13m'. "
            "Did you mean 'mamba2-130m'? Known: mamba2-130m.",
        ),
        (
            "{method: wanda, ratio: .5, models: 'zoo-*'}",
            "methods[1].models: no model of the grid matches 'zoo-*'. Known: mamba2-130m.",
        ),
        ("{method: wanda, ratio: .5, models: []}", "models: found an empty list; expected at lea"),
        ("{method: wanda, ratio: .5, models: 3}", "models: found 3 (a number); expected text"),
        ("{method: wanda, ratio: .5, models: ['*', '*']}", "the same model is listed a second"),
        ("{method: dense, models: ['*']}", "the dense model of every model is always measured"),
        (
            "{method: wanda, ratio: .5, calibration: {sample: 3}}",
            "methods[1].calibration: the key 'sample' is unknown. Did you mean 'samples'?",
        ),
        (
            "{method: wanda, ratio: .5, calibration: {samples: 0}}",
            "methods[1].calibration.samples: found 0 (a number); expected at least 1",
        ),
        (
            "{method: wanda, ratio: .5, calibration: {data: wikitxt}}",
            "methods[1].calibration.data: there is no text called 'wikitxt'",
        ),
        (
            "{method: magnitude, ratio: .5, calibration: {samples: 3}}",
            "methods[1].calibration: 'magnitude' with these parameters looks at no text",
        ),
        (
            "{method: random+magnitude, ratio: .5, calibration: {samples: 3}}",
            "'random+magnitude' with these parameters looks at no text; expected no calibration",
        ),
        ("{method: dense, calibration: {samples: 3}}", "'dense' with these parameters looks at no"),
    ],
)
def test_a_method_that_cannot_be_meant_is_refused(grid, entry, expected):
    found = problems(grid(GOOD.replace("[dense]", f"[dense, {entry}]")))
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{suite: perplexity, length: 1}", "suites[1].length: found 1 (a number); expected at lea"),
        ("{suite: perplexity, len: 9}", "the key 'len' is unknown. Did you mean 'length'?"),
        ("{suite: perplexity, data: gone.txt}", "suites[1]: "),
        ("{suite: lm_eval}", "the key 'tasks' is missing; expected names as lm-eval lists them"),
        ("{suite: latency, prefill: [[1]]}", "suites[1].prefill[0]"),
        (
            "{suite: perplexity, methods: [densee]}",
            "suites[1].methods[0]: no method of the grid is called 'densee'. Did you mean 'dense'?",
        ),
        ("{suite: perplexity, models: x}", "suites[1].models: no model of the grid is called 'x'."),
        ("{suite: perplexity, methods: ['w*']}", "no method of the grid matches 'w*'. Known: den"),
        ("{tasks: [a]}", "the key 'suite' is missing; expected a suite's name"),
        ("zero_shot", "the same suite is listed a second time"),
        ("7", "found 7 (a number); expected a suite's name or a mapping such as"),
    ],
)
def test_a_suite_that_cannot_be_meant_is_refused(grid, entry, expected):
    found = problems(grid(GOOD.replace("[zero_shot]", f"[zero_shot, {entry}]")))
    assert len(found) == 1
    assert expected in found[0]


def test_a_method_that_no_suite_measures_is_refused(grid):
    text = GOOD.replace("[dense]", "[dense, {method: wanda, ratio: .5}]")
    (found,) = problems(grid(text.replace("zero_shot", "{suite: zero_shot, methods: dense}")))
    assert (
        "methods[1].method: no suite of the grid measures 'wanda' on 'mamba2-130m'; expected"
        in found
    )


def test_a_files_own_data_is_found_beside_the_grid(grid, tmp_path):
    (tmp_path / "book.txt").write_text("once upon a time")
    text = GOOD.replace("zero_shot", "{suite: perplexity, data: book.txt}")
    file = read_grid(grid(text))
    assert file.grid.suites[0].params_from(file.folder)["data"] == str(tmp_path / "book.txt")
    assert read_grid(grid(GOOD + "calibration: {data: book.txt}\n")).grid.calibration.samples


@pytest.mark.parametrize("data", ["book.txt", "./sub/../book.txt", "copy.txt", "texts"])
def test_a_text_that_a_suite_scores_is_no_calibration(grid, tmp_path, data):
    (tmp_path / "book.txt").write_text("once upon a time")
    (tmp_path / "copy.txt").write_text("once upon a time")
    (tmp_path / "sub").mkdir()
    (tmp_path / "texts" / "inner").mkdir(parents=True)
    (tmp_path / "texts" / "inner" / "a.txt").write_text("once upon a time")
    text = GOOD.replace("zero_shot", "zero_shot, {suite: perplexity, data: book.txt}")
    (found,) = problems(grid(f"{text}calibration: {{data: {data}}}\n"))
    scored = f"the suite perplexity scores {tmp_path / 'book.txt'}; expected a text that no suite"
    assert found.startswith(f"4:21: calibration.data: {scored}")
    method = f"{{method: wanda, ratio: 0.5, calibration: {{data: {data}}}}}"
    (found,) = problems(grid(text.replace("dense", method)))
    assert "methods[0].calibration.data: the suite perplexity scores" in found


def test_known_texts_are_scored_and_calibrated_on_in_different_splits(grid):
    for data in ("wikitext", "tinyworld"):
        text = GOOD.replace("zero_shot", f"{{suite: perplexity, data: {data}}}")
        read_grid(grid(f"{text}calibration: {{data: {data}}}\n"))


def test_a_missing_calibration_text_names_the_known_ones(grid):
    (found,) = problems(grid(GOOD + "calibration: {data: wikitxt}\n"))
    assert found.startswith("4:21: calibration.data: there is no text called 'wikitxt'")
    assert "Did you mean 'wikitext'? Known: c4, tinyworld, wikitext." in found


def test_the_texts_that_the_grid_knows_are_those_that_calibration_reads():
    from ssmbench.surgery.calibration import NAMED

    assert set(TEXTS) == set(NAMED)


def test_missing_parts_are_told_at_the_top(grid):
    assert problems(grid("name: x\n")) == [
        "1:1: the key 'methods' is missing; expected a list of methods, with their ratios",
        "1:1: the key 'models' is missing; expected a list of models",
        "1:1: the key 'suites' is missing; expected a list of suites: what is measured",
    ]


def test_a_key_given_twice_is_told_with_both_lines(grid):
    found = problems(grid(GOOD + "dtype: float32\ndtype: float16\n"))
    assert found == [
        "5:1: the key 'dtype' is given a second time (first on line 4); expected it once"
    ]


def test_problems_are_in_the_order_of_the_file(grid):
    text = "suites: [x]\nmodels: [y]\nmethods: [z]\nseeds: [-1]\nsuites: []\n"
    places = [tuple(map(int, p.split(":")[:2])) for p in problems(grid(text))]
    assert places == sorted(places)
    assert len(places) == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2\nb: 3\n", "2:2: this is not YAML: a list opened by '[' is never closed"),
        ("a:\n\t- b\n", "2:1: this is not YAML: a tab cannot indent; use spaces"),
        ("a: b: c\n", "1:5: this is not YAML: a second ':' on the line"),
        ("a: *q\n", "1:4: this is not YAML: the alias (*name) has no anchor"),
        ("- a\nb: 2\n", "2:1: this is not YAML: a line that does not belong to the list"),
        ("a: 'x\n", "this is not YAML: a quote is opened and never closed"),
        ("a: @x\n", "1:4: this is not YAML: a character that cannot begin a value"),
        ("---\na: 1\n---\nb: 2\n", "a second '---' document; expected one grid a file"),
        ("", "1:1: the file is empty; expected keys such as"),
        ("# nothing\n", "1:1: the file is empty; expected keys such as"),
        ("[1, 2]\n", "1:1: the file holds a list of 2; expected keys such as"),
        ("dense\n", "1:1: the file holds 'dense' (text); expected keys such as"),
        (b"name: x\nmodels: [\xe9]\n", "2:10: the byte 0xe9 is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_grid_is_told_where_it_breaks(grid, text, expected):
    found = problems(grid(text))
    assert len(found) == 1
    assert expected in found[0]


def test_a_byte_order_mark_is_no_mistake(grid):
    assert read_grid(grid(b"\xef\xbb\xbf" + GOOD.encode())).grid.dtype == "float32"


def test_a_missing_file_and_a_folder_are_no_grids(tmp_path):
    with pytest.raises(GridError, match="there is no such file"):
        read_grid(tmp_path / "gone.yaml")
    with pytest.raises(GridError, match="this is a folder"):
        read_grid(tmp_path)


def test_values_under_a_merge_key_are_told_at_its_place(grid):
    text = """\
models: [mamba2-130m]
methods:
  - &base {method: wanda, ratio: 0.5}
  - {<<: *base, targets: nowhere}
suites: [zero_shot]
"""
    (found,) = problems(grid(text))
    assert found.startswith("4:26: methods[1].targets: found 'nowhere'")


def test_a_folder_given_on_the_command_line_must_exist(grid):
    with pytest.raises(CommandError, match=r"--model mamba2-130m=\./gone: there is no folder"):
        read_grid(grid(GOOD), models={"mamba2-130m": "./gone"})


def test_an_alias_that_contains_itself_ends(grid):
    (found, *_) = problems(grid("--- &all\nmodels: *all\nmethods: [dense]\nsuites: [zero_shot]\n"))
    assert found == "1:5: models: an alias that contains itself; expected a value"


def test_no_message_speaks_of_validators(grid):
    text = """
models: {a: 1}
methods: [{method: random, ratio: {a: 1}}, [1], null]
suites: [{suite: latency, decode: 3, repeats: x, warmup: 1.5}]
seeds: [99999999999999999999999]
calibration: {samples: '3', length: null, seed: []}
resources: {timing: {num_gpus: lots}, memory_gb: 0, labels: []}
isolate: 1
"""
    text = "\n".join(problems(grid(text)))
    for word in ("Input", "should", "valid", "type=", "tuple", "NoneType", "pydantic"):
        assert word not in text.replace("validation", ""), text


def test_a_model_can_be_given_on_the_command_line(grid, folder):
    file = read_grid(
        grid(GOOD),
        models={"mamba2-130m": str(folder)},
        tokenizers={"mamba2-130m": "EleutherAI/gpt-neox-20b"},
    )
    (entry,) = file.grid.models
    assert entry.label == "mamba2-130m"
    assert entry.path == str(folder)
    assert entry.tokenizer == "EleutherAI/gpt-neox-20b"


def test_a_model_given_for_a_name_that_the_grid_lacks_is_refused(grid, folder):
    with pytest.raises(CommandError, match=r"no model 'mamba2-130'. Did you mean 'mamba2-130m'"):
        read_grid(grid(GOOD), models={"mamba2-130": str(folder)})


WHOLE = {
    "name": "x",
    "models": ["mamba2-130m", {"path": "a/b", "family": "mamba", "tokenizer": "c/d"}],
    "methods": [
        "dense",
        {"method": "wanda", "ratio": [0.5], "targets": "both"},
        {"method": "random+wanda", "ratio": 0.5, "random": {"ratio": 0.1}},
        {"method": "state", "ratio": 0.5, "models": ["*2-*"], "calibration": {"samples": 3}},
    ],
    "fine_tune": [
        "none",
        {"fine_tune": "kd", "preset": "pruner", "steps": 20, "methods": ["wanda"], "data": "c4"},
        {"fine_tune": "ce", "adapters": "all", "models": "*", "data": "c4", "split": "train"},
    ],
    "suites": ["zero_shot", {"suite": "latency", "prefill": [[1, 2]], "fine_tune": "none"}],
    "seeds": [0],
    "dtype": "float32",
    "calibration": {"data": "c4", "samples": 3, "length": 3, "seed": 0},
    "resources": {"num_cpus": 1, "labels": {"a": "b"}, "timing": {"num_gpus": 1}},
    "timeout_min": 3.5,
}


def places(value):
    """Give every (container, key) of a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0), value=anything, rename=st.none() | st.text(max_size=6))
def test_any_wrong_value_anywhere_ends_in_a_grid_error(tmp_path, where, value, rename):
    document = copy.deepcopy(WHOLE)
    spots = list(places(document))
    container, key = spots[where % len(spots)]
    container[key] = value
    if rename is not None and isinstance(container, dict):
        container[rename] = container.pop(key)
    path = tmp_path / "grid.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(document, file)
    found = ()
    try:
        read_grid(path)
    except GridError as error:
        found = error.problems
    assert all(problem.startswith(f"{path}:") for problem in found)


def test_every_key_of_a_grid_is_in_its_json_schema():
    schema = json_schema()
    assert set(schema["properties"]) == set(Grid.model_fields)
    assert "params" not in json.dumps(schema)


@pytest.mark.parametrize("name", plugins.names("method"))
def test_no_method_has_a_parameter_that_a_grid_takes_for_its_own(name):
    assert not set(METHOD_KEYS) & set(plugins.load("method", name).Params.model_fields)
