"""Looking inside: redundancy, information flow, the table they go to and what people see of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl
import pytest
import torch
from evaluate_helpers import context_of
from store_helpers import finish, make_cell, make_suite, new_run
from token_helpers import MODELS, build, reduce
from torch import Tensor

import ssmbench
from ssmbench.errors import DataError, NumericalError
from ssmbench.execute import attempt
from ssmbench.execute.job import Job
from ssmbench.execute.prepare import Request, prepare
from ssmbench.kernels import naive
from ssmbench.models import description as d
from ssmbench.models.forest import Forest
from ssmbench.models.mixers import SelectiveScanMixer
from ssmbench.report._build import build_all
from ssmbench.report.layers import chosen
from ssmbench.store import attempts, sql
from ssmbench.store.compact import compact
from ssmbench.store.ledger import Ledger
from ssmbench.store.read import tables
from ssmbench.suites import information_flow, redundancy
from ssmbench.suites._inside import Inside, last_output, states, watching
from ssmbench.surgery.token_scores import steps

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.models.decoder import Decoder
    from ssmbench.plan.cells import Suite
    from ssmbench.report._table import Table
    from ssmbench.store.folder import RunFolder

LENGTHS = (23, 9, 16)
REDUCED = ({}, {"site": "before_scan"}, {"chunk": 7}, {"criterion": "recent"})


class Letters:
    """A tokenizer of one token a character."""

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) % 61 for c in text]}


def prompts(*lengths: int) -> tuple[list[list[int]], Forest]:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 61, (n,), generator=generator).tolist() for n in lengths]
    return rows, replace(Forest.ragged(rows), prompted=True)


def seen_by(model: Decoder, forest: Forest) -> list[Inside]:
    found: list[Inside] = []
    with torch.inference_mode(), watching(model, found.append):
        model.hidden(forest)
    return found


def written(folder: Path, *lengths: int) -> Path:
    """Write texts of so many letters; Letters gives the same tokens to each model."""
    folder.mkdir(exist_ok=True)
    for i, n in enumerate(lengths):
        text = "".join(chr(97 + (7 * j * j + 3 * j + i) % 26) for j in range(n))
        (folder / f"{i}.txt").write_text(text)
    return folder


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().double(), b.flatten().double()
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("params", [None, *REDUCED], ids=str)
def test_states_token_by_token_end_in_the_state_that_the_layer_carries(name, params):
    """Of rows of differing lengths, with tokens dropped before or after the scan, in chunks."""
    model = build(MODELS[name])
    if params is not None:
        reduce(model, **params)
    _, forest = prompts(*LENGTHS)
    n = 0
    for inside in seen_by(model, forest):
        if inside.shown is None:
            assert isinstance(model.description.layers[inside.layer].mixer, d.Attention)
            continue
        found = torch.stack(list(states(inside.shown)), 1)
        last = torch.tensor(inside.shown.stage.lengths) - 1
        expected = inside.state[1].flatten(1)
        torch.testing.assert_close(found[range(len(last)), last], expected, rtol=1e-4, atol=1e-5)
        n += 1
    assert n


@pytest.mark.parametrize("name", ["mamba", "grouped", "hybrid"])
def test_the_last_output_is_what_the_naive_scan_gives_without_d(name):
    model = build(MODELS[name])
    _, forest = prompts(12)
    for inside in seen_by(model, forest):
        if inside.shown is None:
            continue
        shown = inside.shown
        step = steps(shown, "both")
        if isinstance(shown.mixer, SelectiveScanMixer):
            A = -torch.exp(shown.mixer.A_log)
            y, _ = naive.selective_scan(shown.x, step.weight, A, shown.B, shown.C)
        else:
            repeats = step.decay.shape[2] // shown.x.shape[2]
            x = shown.x.repeat_interleave(repeats, 2)
            B = shown.B.repeat_interleave(shown.C.shape[2] // shown.B.shape[2], 2)
            y, _ = naive.ssd(x, -step.decay, step.weight, B, shown.C)
        torch.testing.assert_close(last_output(inside), y[:, -1].flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mamba", "hybrid"])
@pytest.mark.parametrize("params", REDUCED, ids=str)
def test_a_model_runs_alike_under_observation_and_is_left_as_it_was(name, params):
    model = reduce(build(MODELS[name]), **params)
    _, forest = prompts(*LENGTHS)
    own = model.reducer
    with torch.inference_mode():
        expected, _ = model.hidden(forest)
        with watching(model, lambda _: None):
            found, _ = model.hidden(forest)
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))
    assert model.reducer is own
    assert not any(module._forward_hooks for module in model.modules())


def naive_redundancy(model: Decoder, row: list[int], site: str) -> list[float]:
    """Each layer's mean cosine of adjacent tokens, block after block; states prefix by prefix."""
    forest = Forest.ragged([row])
    h = model.embedding(forest.tokens)
    means = []
    for i, block in enumerate(model.layers):
        if site == "state":
            carried = [
                model.hidden(Forest.ragged([row[:t]]))[1].layers[i][1]
                for t in range(1, len(row) + 1)
            ]
            values = torch.stack(carried)
        elif site == "mixer":
            values = block.mixer(block.norm(h), forest, None)[0]
        h = block(h, forest, None)[0]
        values = h if site == "residual" else values
        pairs = [cosine(values[t], values[t - 1]) for t in range(1, len(row))]
        means.append(math.fsum(pairs) / len(pairs))
    return means


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
@pytest.mark.parametrize("site", ["residual", "mixer", "state"])
def test_redundancy_is_the_mean_over_documents_of_their_adjacent_tokens(name, site, tmp_path):
    model = build(MODELS[name])
    folder = written(tmp_path / "texts", 12, 7, 30)
    params = redundancy.Params(data=str(folder), length=12, sites=(site,))
    result = redundancy.run(context_of(model, Letters(), tmp_path, batch_tokens=24), params)
    with torch.inference_mode():
        rows = [Letters()(p.read_text())["input_ids"][:12] for p in sorted(folder.iterdir())]
        expected = [naive_redundancy(model, row, site) for row in rows]
    means = [math.fsum(layer) / 3 for layer in zip(*expected, strict=True)]
    assert [r["layer"] for r in result.layers] == list(range(6))
    assert {(r["measure"], r["place"], r["n"], r["reason"]) for r in result.layers} == {
        ("cosine", site, 3, None)
    }
    # abs: a cosine of float32 vectors.
    assert [r["value"] for r in result.layers] == pytest.approx(means, abs=2e-5)


def test_tokens_that_are_equal_are_wholly_redundant(tmp_path):
    """In the stream before any mixer acts they are one vector: only their pasts tell them apart."""
    model = build(MODELS["mamba"])
    for block in model.layers:
        block.mixer.out_proj.weight.zero_()
    (tmp_path / "a.txt").write_text("x" * 20)
    params = redundancy.Params(data=str(tmp_path / "a.txt"), length=20, sites=("residual",))
    result = redundancy.run(context_of(model, Letters(), tmp_path), params)
    assert [r["value"] for r in result.layers] == pytest.approx([1.0] * 6)


def test_a_layer_without_a_state_says_so(tmp_path):
    model = build(MODELS["hybrid"])
    folder = written(tmp_path / "texts", 20)
    context = context_of(model, Letters(), tmp_path)
    rows = redundancy.run(context, redundancy.Params(data=str(folder), length=20)).layers
    reasons = {(r["layer"], r["place"]): r["reason"] for r in rows}
    assert reasons[1, "state"] == "attention has no scan"
    assert reasons[1, "mixer"] is reasons[0, "state"] is None
    flow = information_flow.run(context, information_flow.Params(data=str(folder), length=20))
    assert {r["reason"] for r in flow.layers if r["layer"] == 1} == {"attention has no scan"}


@pytest.mark.parametrize("params", [{}, {"site": "before_scan"}], ids=str)
def test_neighbours_are_those_that_are_left(params, tmp_path):
    model = reduce(build(MODELS["mamba2"]), 0.95, **params)
    folder = written(tmp_path / "texts", 20)
    context = context_of(model, Letters(), tmp_path)
    rows = redundancy.run(context, redundancy.Params(data=str(folder), length=20)).layers
    last = {r["place"]: r for r in rows if r["layer"] == 5}
    assert {r["reason"] for r in last.values()} == {"no document has two tokens left here"}
    assert {r["n"] for r in last.values()} == {0}
    assert all(r["value"] is not None for r in rows if r["layer"] == 1)


def naive_flow(model: Decoder, row: list[int], bins: int) -> list[list[list[float]]]:
    """For each layer and part, its tokens' scores over the norm of the last output, one by one."""
    _, forest = [row], replace(Forest.ragged([row]), prompted=True)
    found = []
    for inside in seen_by(model, forest):
        shown = inside.shown
        assert shown is not None
        mixer = shown.mixer
        full = torch.nn.functional.softplus(shown.raw[0] + mixer.dt_proj.bias).double()
        plain = torch.nn.functional.softplus(shown.raw[0]).double()
        A = -torch.exp(mixer.A_log.double())
        x, B, C = shown.x[0].double(), shown.B[0].double(), shown.C[0].double()
        parts: list[list[float]] = [[] for _ in range(bins)]
        size = float(last_output(inside).double().norm())
        for i, place in enumerate(shown.stage.places[0].tolist()):
            after = plain[i + 1 :].sum(0)
            terms = C[-1] * B[i] * torch.exp(A * after[:, None])
            delta = full[i] * x[i] * terms.sum(1)
            parts[place * bins // len(row)].append(float(delta.max()) / size)
        found.append(parts)
    return found


@pytest.mark.parametrize("ratio", [0.0, 0.8])
def test_information_flow_is_each_parts_mean_share_of_the_last_output(ratio, tmp_path):
    model = build(MODELS["mamba"])
    if ratio:
        reduce(model, ratio)
    folder = written(tmp_path / "texts", 23, 40)
    context = context_of(model, Letters(), tmp_path)
    params = information_flow.Params(data=str(folder), length=25)
    rows = information_flow.run(context, params).layers
    with torch.inference_mode():
        texts = [Letters()(p.read_text())["input_ids"][:25] for p in sorted(folder.iterdir())]
        each = [naive_flow(model, row, 5) for row in texts]
    n_empty = 0
    for row in rows:
        part = round(5 * float(row["place"].split("-")[0]))
        values = [v for document in each for v in document[row["layer"]][part]]
        assert row["n"] == len(values)
        if values:
            mean = math.fsum(values) / len(values)
            assert row["value"] == pytest.approx(mean, rel=1e-4, abs=1e-12)
        else:
            n_empty += 1
            assert (row["value"], row["reason"]) == (None, "no token of this part is left")
    assert bool(n_empty) == bool(ratio)
    assert sorted({r["place"] for r in rows}) == ["0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1"]


def test_texts_without_two_tokens_are_refused(tmp_path):
    context = context_of(build(MODELS["mamba"]), Letters(), tmp_path)
    (tmp_path / "a.txt").write_text("x")
    for suite in (redundancy, information_flow):
        with pytest.raises(DataError, match="no document has two tokens"):
            suite.run(context, suite.Params(data=str(tmp_path / "a.txt")))


def test_what_is_read_is_known_to_the_plan(tmp_path):
    folder = written(tmp_path / "texts", 5, 6)
    params = redundancy.Params(data=str(folder), length=100)
    assert redundancy.tokens(params, None) == 200
    assert redundancy.tokens(params, 1) == 100
    assert redundancy.tokens(redundancy.Params(), None) == 100_000
    assert redundancy.files(params, None) == sorted(folder.iterdir())
    before = redundancy.provides(params)
    (folder / "0.txt").write_text("other")
    assert redundancy.provides(params) != before
    assert information_flow.provides(information_flow.Params(data="tinyworld")).keys() == {
        "tinyworld"
    }


# --- the table -----------------------------------------------------------------------------


GRID = """
models: [zoo-mamba-s]
methods: [dense]
suites: [{suite: redundancy, data: tinyworld, n: 2, length: 10, sites: [residual]}]
"""


def named(found: list[Table], name: str) -> Table:
    return next(table for table in found if table.name == name)


def layer_row(layer: int, measure: str, place: str | None, value: float | None, n: int = 4) -> dict:
    reason = None if value is not None else "for a reason"
    return {
        "layer": layer,
        "measure": measure,
        "place": place,
        "value": value,
        "n": n,
        "reason": reason,
    }


DENSE, CUT = make_cell(method="dense", ratio=0.0), make_cell(method="simba", ratio=0.9)


def store(folder: RunFolder, suite: Suite, of: dict) -> None:
    with Ledger.open(folder) as ledger:
        for cell, rows in of.items():
            finish(folder, ledger, cell, suite, {"layers": rows}, attempt=f"a{cell.id}{suite.name}")


def test_rows_of_layers_are_stored_read_and_queried_compacted_or_not(tmp_path):
    folder = new_run(tmp_path / "run")
    rows = [layer_row(0, "cosine", "state", 0.5), layer_row(1, "kept", None, None, n=0)]
    store(folder, make_suite("redundancy"), {DENSE: rows})
    for _ in range(2):
        found = tables(folder)["layers"].drop("suite_id").collect()
        assert found.rows(named=True) == [
            {"cell_id": DENSE.id, "suite": "redundancy", **row, "backend": None}
            | {"compute_dtype": None}
            for row in rows
        ]
        asked = sql.query(folder, "select place, value from layers where value is not null")
        assert asked.rows() == [("state", 0.5)]
        compact(folder)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"value": math.nan}, NumericalError, r"suite redundancy: cosine has value = nan"),
        ({"value": None}, ValueError, r"0\.cosine is null without a reason"),
        ({"n": None}, ValueError, r"a row of layers lacks 'n'"),
        ({"site": "x"}, ValueError, r"layers has no column 'site'"),
    ],
)
def test_a_row_of_layers_that_says_nothing_is_refused(change, error, message, tmp_path):
    rows = [{**layer_row(0, "cosine", "state", 0.5), **change}]
    with pytest.raises(error, match=message):
        store(new_run(tmp_path / "run"), make_suite("redundancy"), {DENSE: rows})


def test_an_attempt_stores_what_a_suite_saw_inside(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    (entry,) = prepare(Request(grid=tmp_path / "grid.yaml")).entries
    (suite,) = entry.suites
    folder = new_run(tmp_path / "run")
    job = Job(
        folder=str(folder.path),
        cell=entry.cell,
        suites=entry.suites,
        attempt_id="first",
        number=1,
        log="first.log",
        data=None,
        device="cpu",
        batch_tokens=512,
        num_cpus=1,
        offline=True,
        capture=False,
    )
    outcome = attempt.run_attempt(job, lambda *_: None)
    assert outcome["status"] == "done", outcome["message"]
    mark = attempts.read_mark(folder, entry.cell.id, "first", suite.id)
    assert mark.files.keys() == {"layers"}
    found = pl.read_parquet(folder.table_file(entry.cell.id, "first", suite.id, "layers"))
    assert set(found["n"]) == {2}


def test_the_api_gives_the_table():
    model = ssmbench.load("zoo:mamba-s")
    params = {"suite": "information_flow", "data": "tinyworld", "n": 2, "length": 50}
    found = ssmbench.evaluate(model, [params])["layers"]
    assert set(found["suite"]) == {"information_flow"}
    assert found["n"].sum() == 2 * 2 * 50


# --- the report ----------------------------------------------------------------------------


def test_few_layers_are_all_shown_and_many_evenly():
    assert chosen(range(8)) == list(range(8))
    assert chosen(range(64)) == [0, 9, 18, 27, 36, 45, 54, 63]
    assert chosen([3, 5]) == [3, 5]


def test_the_report_shows_places_beside_each_other_and_why_one_is_empty(tmp_path):
    folder = new_run(tmp_path / "run")
    dense = [layer_row(i, "cosine", p, 0.25) for i in range(12) for p in ("residual", "state")]
    cut = [layer_row(0, "cosine", "residual", 0.5), layer_row(0, "cosine", "state", None, n=0)]
    store(folder, make_suite("redundancy"), {DENSE: dense, CUT: cut})
    table = named(build_all(folder), "layers-redundancy-redundancy")
    headers = [c.header for c in table.columns]
    assert headers == ["model", "method", "ratio", "layer", "residual", "state", "n"]
    texts = [[shown.text for shown in row[1:]] for row in table.rows]
    assert texts[0] == ["dense", "0", "0", "0.250", "0.250", "4"]
    assert [t[2] for t in texts[:8]] == ["0", "2", "3", "5", "6", "8", "9", "11"]
    assert texts[8] == ["simba", "0.9", "0", "0.500", "–", "0–4"]
    assert table.rows[8][5].note == "for a reason"
    assert any("8 of 12 layers" in note for note in table.notes)
    assert table.sections == {0, 8}


def test_a_cell_that_is_not_meant_to_have_layers_measured_has_no_line(tmp_path):
    folder = new_run(tmp_path / "run")
    store(folder, make_suite("redundancy"), {DENSE: [layer_row(0, "cosine", "state", 0.25)]})
    store(folder, make_suite("other"), {CUT: [layer_row(0, "influence", "0-1", 0.25)]})
    table = named(build_all(folder), "layers-redundancy-redundancy")
    assert [row[1].text for row in table.rows] == ["dense"]


def test_the_account_of_dropped_tokens_is_a_mean_over_prompts_of_all_tasks(tmp_path):
    folder = new_run(tmp_path / "run")
    rows = [
        layer_row(0, "tokens", "a", 100.0, n=3),
        layer_row(0, "tokens", "b", 200.0, n=1),
        layer_row(0, "kept_position", "a", 0.5, n=3),
        layer_row(0, "kept_position", "b", None, n=0),
        layer_row(1, "tokens", "a", 10.0, n=3),
    ]
    store(folder, make_suite("few_shot"), {DENSE: [], CUT: rows})
    table = named(build_all(folder), "layers-dropping-few_shot")
    texts = [[shown.text for shown in row[1:]] for row in table.rows]
    # (3 · 100 + 1 · 200) / 4; only task a has positions.
    assert texts == [
        ["simba", "0.9", "0", "125", "0.500", "3–4"],
        ["simba", "0.9", "1", "10.0", "–", "3"],
    ]
    assert table.rows[1][5].note == "nothing is dropped after this layer"
