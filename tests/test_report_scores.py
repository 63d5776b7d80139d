"""Standard errors and paired differences, against numbers worked by hand and numpy."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from store_helpers import acc_rows, nll_rows

from ssmbench.report._scores import Difference, mean_score, scores
from ssmbench.store.columns import schema

SUITE = {"suite_id": "s", "suite": "zero_shot"}


def tables(cells: dict[str, dict]) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Metrics and samples of cells, given what `acc_rows` and `nll_rows` make."""
    frames = []
    for table in ("metrics", "samples"):
        rows = [{"cell_id": c, **SUITE, **r} for c, made in cells.items() for r in made[table]]
        frames.append(pl.LazyFrame(rows, schema=schema(table), orient="row"))
    return frames[0], frames[1]


def links(rows: dict[str, tuple[int, int | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        [{"cell_id": c, "row": r, "dense_row": d} for c, (r, d) in rows.items()],
        schema={"cell_id": pl.String, "row": pl.Int64, "dense_row": pl.Int64},
    )


def two(dense: dict, cut: dict) -> pl.DataFrame:
    return scores(*tables({"dense": dense, "cut": cut}), links({"dense": (0, 0), "cut": (1, 0)}))


def test_a_paired_difference_by_hand():
    found = two(acc_rows({"t": [1, 1, 1, 0]}), acc_rows({"t": [1, 0, 0, 0]}))
    score = found[1, "s", "t", "acc"]
    # Differences 0, −1, −1, 0: mean −0.5, variance (4 · 0.25) / 3, over 4 documents.
    assert score.value == 0.25
    assert score.difference.value == -0.5
    assert score.difference.stderr == pytest.approx(math.sqrt(1 / 3 / 4))
    low, high = score.difference.interval
    assert (low, high) == pytest.approx((-1.0658, 0.0658), abs=1e-4)
    assert score.difference.verdict == "unclear"
    assert found[0, "s", "t", "acc"].difference == Difference(None, reason="dense")


def test_paired_differences_equal_numpys():
    luck = np.random.default_rng(0)
    dense, cut = (luck.random(500) < p for p in (0.8, 0.6))
    found = two(
        acc_rows({"t": dense.astype(int).tolist()}), acc_rows({"t": cut.astype(int).tolist()})
    )
    score = found[1, "s", "t", "acc"]
    d = cut.astype(float) - dense
    assert score.value == pytest.approx(cut.mean())
    assert score.stderr == pytest.approx(cut.std(ddof=1) / math.sqrt(500))
    assert score.difference.value == pytest.approx(d.mean())
    assert score.difference.stderr == pytest.approx(d.std(ddof=1) / math.sqrt(500))
    assert score.difference.verdict == "below"


def test_a_perplexity_differs_in_nats_per_token_by_hand():
    found = two(nll_rows([10, 20], [5, 10]), nll_rows([12, 26], [5, 10]))
    difference = found[1, "s", "wikitext", "perplexity"].difference
    # 2 and 6 nats more: 8 over 15 tokens. Residuals ∓ 2/3, so sqrt(2 · 8/9) / 15.
    assert difference.value == pytest.approx(8 / 15)
    assert difference.stderr == pytest.approx(math.sqrt(2 * 8 / 9) / 15)
    assert difference.verdict == "above"


def test_nats_belong_to_the_perplexity_that_they_reproduce():
    def made(nats):
        rows = nll_rows(nats, [5.0, 10.0], metric="word_perplexity")
        value = math.exp(sum(nats) / 60)
        rows["metrics"].append({**rows["metrics"][0], "metric": "byte_perplexity", "value": value})
        return rows

    found = two(made([10.0, 20.0]), made([12.0, 26.0]))
    assert found[1, "s", "wikitext", "word_perplexity"].difference.value == pytest.approx(8 / 15)
    other = found[1, "s", "wikitext", "byte_perplexity"].difference
    assert other.value is None
    assert other.reason == "no difference to dense: no per-document values"


def test_equal_results_differ_by_exactly_nothing_and_not_distinguishably():
    found = two(nll_rows([10, 20.3], [5, 10]), nll_rows([10, 20.3], [5, 10]))
    difference = found[1, "s", "wikitext", "perplexity"].difference
    assert difference.interval == (0.0, 0.0)
    assert difference.verdict == "unclear"


def test_other_documents_are_not_paired():
    found = two(acc_rows({"t": [1, 1, 1, 0]}), acc_rows({"t": [1, 0, 0]}))
    difference = found[1, "s", "t", "acc"].difference
    assert difference.value is None
    assert "other documents than dense (3 documents here, 4 dense)" in difference.reason
    found = two(acc_rows({"t": [1, 0, 0]}), acc_rows({"t": [1, 1, 1, 0]}))
    assert "(4 documents here, 3 dense)" in found[1, "s", "t", "acc"].difference.reason


def test_documents_of_another_length_are_not_paired():
    found = two(nll_rows([10, 20], [5, 10]), nll_rows([10, 20], [5, 11]))
    reason = found[1, "s", "wikitext", "perplexity"].difference.reason
    assert reason == "the documents' token counts differ from dense"


def test_without_a_dense_row_there_is_no_difference():
    frames = tables({"cut": acc_rows({"t": [1, 0]})})
    score = scores(*frames, links({"cut": (0, None)}))[0, "s", "t", "acc"]
    assert score.value == 0.5
    assert score.difference.reason == "no dense cell of this model and dtype in this run"


def test_a_dense_row_without_this_task_gives_no_difference():
    found = two(acc_rows({"u": [1, 0]}), acc_rows({"t": [1, 0]}))
    assert found[1, "s", "t", "acc"].difference.reason == "the dense cell has no score here"


def test_one_document_has_a_difference_and_no_interval():
    found = two(acc_rows({"t": [1]}), acc_rows({"t": [0]}))
    difference = found[1, "s", "t", "acc"].difference
    assert (difference.value, difference.interval, difference.verdict) == (-1.0, None, "")


def test_seeds_are_averaged_by_document_before_errors_are_taken():
    cells = {
        "dense": acc_rows({"t": [1, 1, 1, 0]}),
        "a": acc_rows({"t": [1, 0, 0, 0]}),
        "b": acc_rows({"t": [1, 1, 0, 0]}),
    }
    rows = links({"dense": (0, 0), "a": (1, 0), "b": (1, 0)})
    score = scores(*tables(cells), rows)[1, "s", "t", "acc"]
    documents = np.array([1, 0.5, 0, 0])
    change = documents - [1, 1, 1, 0]
    assert score.value == pytest.approx(0.375)
    assert score.seeds == {"a": 0.25, "b": 0.5}
    assert score.seed_sd == pytest.approx(np.std([0.25, 0.5], ddof=1))
    assert score.stderr == pytest.approx(documents.std(ddof=1) / 2)
    assert score.difference.value == pytest.approx(change.mean())
    assert score.difference.stderr == pytest.approx(change.std(ddof=1) / 2)


def test_seeds_on_different_documents_give_no_errors():
    cells = {
        "dense": acc_rows({"t": [1, 1, 1]}),
        "a": acc_rows({"t": [1, 0, 0]}),
        "b": acc_rows({"t": [1, 1]}),
    }
    rows = links({"dense": (0, 0), "a": (1, 0), "b": (1, 0)})
    score = scores(*tables(cells), rows)[1, "s", "t", "acc"]
    assert score.stderr is None
    assert score.difference.reason == "the seeds were scored on different documents"


def test_the_mean_over_tasks_by_hand():
    found = two(
        acc_rows({"t": [1, 1, 1, 0], "u": [1, 1]}), acc_rows({"t": [1, 0, 0, 0], "u": [0, 1]})
    )
    mean = mean_score([found[1, "s", task, "acc"] for task in ("t", "u")])
    # Standard errors: t sqrt(0.1875 · 4 / 3 / 4) = 0.25, u 0.5; differences' 1/sqrt(12) and 0.5.
    assert mean.value == 0.375
    assert mean.stderr == pytest.approx(math.sqrt(0.25**2 + 0.5**2) / 2)
    assert mean.difference.value == -0.5
    assert mean.difference.stderr == pytest.approx(math.sqrt(1 / 12 + 0.25) / 2)


def test_a_mean_over_fewer_tasks_is_not_given():
    found = two(acc_rows({"t": [1, 0]}), acc_rows({"t": [1, 0]}))
    lost = acc_rows({"u": [1, 0]})
    lost["metrics"][0] |= {"value": None, "reason": "overflow"}
    missing = scores(*tables({"dense": lost}), links({"dense": (0, 0)}))[0, "s", "u", "acc"]
    mean = mean_score([found[1, "s", "t", "acc"], missing])
    assert (mean.value, mean.reason) == (None, "overflow")
