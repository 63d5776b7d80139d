"""The suite that hands over how fine-tuning went, and the table that it goes to."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest
from evaluate_helpers import context_of
from store_helpers import finish, make_cell, make_suite, new_run, training_rows

from ssmbench import plugins
from ssmbench.errors import DataError, NumericalError
from ssmbench.store import sealed, sql
from ssmbench.store.columns import TRAINING
from ssmbench.store.compact import compact
from ssmbench.store.ledger import Ledger
from ssmbench.store.read import tables
from ssmbench.suites import training
from ssmbench.suites._context import Result, Training

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.store.folder import RunFolder

ROWS = [
    {"step": 10, "loss": 2.0, "learning_rate": 1e-3, "gradient_norm": 3.0, "tokens": 640}
    | {"seconds": 1.5, "dense_loss": 0.5, "sparse_loss": 1.5},
    {"step": 20, "loss": 1.0, "learning_rate": 5e-4, "gradient_norm": 2.0, "tokens": 1280}
    | {"seconds": 3.0, "dense_loss": 0.25, "sparse_loss": 0.75},
]
KD = make_cell(method="state", fine_tune="kd", recipe={"data": "wikitext", "steps": 20})
SUITE = make_suite("training")


def told(tmp_path: Path) -> Result:
    went = Training("wikitext", ROWS, loss_before=2.5, loss_after=0.75, n=8)
    context = context_of(None, None, tmp_path, training=went)
    return training.run(context, training.Params())


def stored(tmp_path: Path) -> RunFolder:
    folder = new_run(tmp_path / "run")
    result = told(tmp_path)
    with Ledger.open(folder) as ledger:
        rows = {"metrics": result.metrics, "training": result.training}
        finish(folder, ledger, KD, SUITE, rows, attempt="a")
    return folder


def test_the_losses_on_held_out_windows_are_metrics(tmp_path):
    common = {"task": "wikitext", "n": 8, "higher_is_better": False}
    assert told(tmp_path).metrics == [
        {**common, "metric": "loss_before", "value": 2.5},
        {**common, "metric": "loss_after", "value": 0.75},
    ]


def test_the_curve_is_a_table_of_its_own(tmp_path):
    found = tables(stored(tmp_path))["training"].collect()
    assert found.columns == [c.name for c in TRAINING]
    ids = {"cell_id": KD.id, "suite_id": SUITE.id, "suite": "training"}
    assert found.to_dicts() == [{**ids, **row} for row in ROWS]


def test_a_model_that_was_not_trained_has_no_curve(tmp_path):
    with pytest.raises(DataError, match="this model was not fine-tuned"):
        training.run(context_of(None, None, tmp_path), training.Params())


def test_a_loss_that_is_no_number_is_not_stored(tmp_path):
    rows = training_rows([1.0, math.nan], before=1.0, after=1.0)
    folder = new_run(tmp_path / "run")
    with Ledger.open(folder) as ledger, pytest.raises(NumericalError, match="loss = nan"):
        finish(folder, ledger, KD, SUITE, rows, attempt="a")


def test_a_curve_can_be_asked_for_before_and_after_compaction(tmp_path):
    folder = stored(tmp_path)
    asked = """
        select c.fine_tune, t.step, t.loss from training t join cells c using (cell_id)
        where c.method = 'state' order by t.step"""
    expected = [("kd", 10, 2.0), ("kd", 20, 1.0)]
    assert sql.query(folder, asked).rows() == expected
    compact(folder)
    assert sql.query(folder, asked).rows() == expected


def test_files_compacted_before_there_was_this_table_are_not_missed(tmp_path):
    folder = stored(tmp_path)
    compacted = compact(folder)
    (compacted / "training.parquet").unlink()
    seal = compacted / sealed.SEAL
    key = json.loads(seal.read_bytes())["key"]
    seal.unlink()
    seal.write_bytes(sealed.write(compacted, key))
    assert tables(folder)["training"].collect().height == 2


def test_the_suite_is_found_by_its_file_and_takes_nothing():
    assert "training" in plugins.names("suite")
    assert training.Params.model_fields == {}
    assert training.tokens(training.Params(), None) == 0
    assert (training.provides(training.Params()), training.files(training.Params(), None)) == (
        {},
        [],
    )


def test_results_are_put_together_with_their_curves():
    both = Result(training=[{"step": 1}])
    both.extend(Result(training=[{"step": 2}]))
    assert both.training == [{"step": 1}, {"step": 2}]
