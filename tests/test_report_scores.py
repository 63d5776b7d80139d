"""Standard errors and paired differences, against numbers worked by hand and numpy."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from store_helpers import acc_rows, nll_rows

from ssmbench.errors import StoreError
from ssmbench.report import _bootstrap
from ssmbench.report._panels import find_panels
from ssmbench.report._results import Results
from ssmbench.report._scores import Difference, Scores, mean_score, scores
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
    # Tango's limits where none of n was gained: Wilson's for 2 of 4, and (z² − 2) / (n + z²).
    square = 1.95996**2
    wilson = (0.5 + square / 8 + math.sqrt(square * (1 / 16 + square / 64))) / (1 + square / 4)
    low, high = score.difference.interval
    assert (low, high) == pytest.approx((-wilson, (square - 2) / (4 + square)), abs=1e-5)
    # Two of two changes the same way: a half.
    assert score.difference.p == 0.5
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
    stderr = math.sqrt(2 * 8 / 9) / 15
    assert difference.stderr == pytest.approx(stderr)
    # Draws of two documents have no spread: what is left is Student's t of one degree of freedom.
    assert difference.interval == pytest.approx(
        (8 / 15 - 12.7062 * stderr, 8 / 15 + 12.7062 * stderr)
    )
    assert difference.p == pytest.approx(1 - 2 / math.pi * math.atan(8 / 15 / stderr))
    assert difference.verdict == "unclear"


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
    assert (difference.interval, difference.p) == ((0.0, 0.0), 1.0)
    assert (difference.verdict, difference.mark) == ("unclear", "≈")


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
    assert (difference.p, difference.mark) == (None, "")


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
    limits = [found[1, "s", task, "acc"].difference.interval for task in ("t", "u")]
    low, high = (math.hypot(*(limit[end] + 0.5 for limit in limits)) / 2 for end in (0, 1))
    assert mean.difference.interval == pytest.approx((-0.5 - low, -0.5 + high))


def test_a_mean_over_fewer_tasks_is_not_given():
    found = two(acc_rows({"t": [1, 0]}), acc_rows({"t": [1, 0]}))
    lost = acc_rows({"u": [1, 0]})
    lost["metrics"][0] |= {"value": None, "reason": "overflow"}
    missing = scores(*tables({"dense": lost}), links({"dense": (0, 0)}))[0, "s", "u", "acc"]
    mean = mean_score([found[1, "s", "t", "acc"], missing])
    assert (mean.value, mean.reason) == (None, "overflow")


def test_a_document_that_stands_twice_is_refused():
    twice = acc_rows({"t": [1, 0]})
    twice["samples"].append(twice["samples"][1])
    with pytest.raises(StoreError, match="task t: cell dense has document 1 twice"):
        two(twice, acc_rows({"t": [1, 0]}))


# --- many differences ---------------------------------------------------------------------


def family(lost: dict[str, tuple[int, int]], n: int = 20) -> tuple[Scores, list]:
    """Rows that lose so many of n documents of each of two tasks, dense first, and the panels."""
    lost = {"dense": (0, 0), **lost}
    cells = {
        cell: acc_rows({t: [0] * k + [1] * (n - k) for t, k in zip("tu", gone, strict=True)})
        for cell, gone in lost.items()
    }
    frames = tables(cells)
    found = scores(*frames, links({cell: (i, 0) for i, cell in enumerate(lost)}))
    return found, find_panels(*frames)


def test_holms_correction_is_over_all_rows_and_tasks_of_a_panel():
    found, panels = family({"a": (6, 0), "b": (15, 1), "c": (0, 0)})
    adjusted = found.adjusted(panels)
    changes = {k[0:3:2]: d for k, d in ((k, s.difference) for k, s in adjusted.items())}
    # One side alone changed: 2 / 2ⁿ. Six differences; the smallest times six, the next times five.
    assert changes[2, "t"].p_holm == pytest.approx(6 * 2 / 2**15)
    assert changes[1, "t"].p == pytest.approx(2 / 2**6)
    assert changes[1, "t"].p_holm == pytest.approx(5 * 2 / 2**6)
    assert [changes[r, t].mark for r in (1, 2, 3) for t in "tu"] == ["▽", "≈", "▼", "≈", "≈", "≈"]
    assert changes[0, "t"].p_holm is None
    assert found[2, "s", "t", "acc"].difference.mark == "▽"  # Not corrected, it does not hold.


def test_means_are_a_family_of_their_own():
    found, (panel,) = family({"a": (8, 9), "b": (0, 0), "c": (1, 0)})
    means = found.adjusted([panel]).means(panel)
    alone = means[1].difference
    assert alone.p_holm == pytest.approx(3 * alone.p)
    assert (alone.mark, means[2].difference.mark) == ("▼", "≈")
    assert means[1].value == mean_score([found[1, "s", t, "acc"] for t in "tu"]).value


@pytest.mark.parametrize(
    ("interval", "p_holm", "mark"),
    [
        ((-2.0, -1.0), 0.01, "▼"), ((-2.0, -1.0), 0.06, "▽"), ((-2.0, -1.0), None, "▽"),
        ((1.0, 2.0), 0.01, "▲"), ((1.0, 2.0), 0.06, "△"), ((-1.0, 2.0), 0.06, "≈"),
        ((0.0, 2.0), 0.06, "≈"), (None, None, ""),
    ],
)  # fmt: skip
def test_a_mark_says_what_holds(interval, p_holm, mark):
    change = Difference(0.5, interval=interval, p_holm=p_holm)
    assert change.mark == mark
    turned = {"▼": "▲", "▽": "△", "▲": "▼", "△": "▽"}
    assert change.negated().mark == turned.get(mark, mark)
    assert change.negated().negated() == change


def test_accuracies_that_are_means_over_seeds_are_drawn_again():
    cells = {
        "dense": acc_rows({"t": [1] * 40}),
        "a": acc_rows({"t": [0] * 12 + [1] * 28}),
        "b": acc_rows({"t": [0] * 9 + [1] * 31}),
    }
    rows = links({"dense": (0, 0), "a": (1, 0), "b": (1, 0)})
    change = scores(*tables(cells), rows)[1, "s", "t", "acc"].difference
    d = np.array([-1] * 9 + [-0.5] * 3 + [0] * 28)
    low, high = _bootstrap.bounded(d[None])
    assert change.interval == pytest.approx((low[0], high[0]))
    assert (change.verdict, change.freedom) == ("below", 39)


def test_models_that_cut_a_text_differently_are_paired_each_with_its_own():
    luck = np.random.default_rng(0)
    models = {}
    for model, n in (("one", 12), ("two", 12), ("three", 9)):
        tokens = luck.integers(5, 50, n).astype(float)
        nats = luck.uniform(2, 3, (3, n)) * tokens
        models[model] = [nll_rows(row.tolist(), tokens.tolist()) for row in nats]
    cells = {f"{m}{i}": rows for m, made in models.items() for i, rows in enumerate(made)}
    places = {name: (i, i // 3 * 3) for i, name in enumerate(cells)}
    together = scores(*tables(cells), links(places))
    for model in models:
        own = {name: rows for name, rows in cells.items() if name.startswith(model)}
        alone = scores(*tables(own), links({name: places[name] for name in own}))
        assert len(alone) == 3
        for key, score in alone.items():
            found = together[key].difference
            assert found.reason == score.difference.reason
            if found.value is not None:
                assert found.value == pytest.approx(score.difference.value)
                assert found.interval == pytest.approx(score.difference.interval, rel=1e-5)


def test_tables_but_the_largest_are_read_once():
    read = []

    def noted(frame: pl.DataFrame) -> pl.DataFrame:
        read.append(frame.columns)
        return frame

    frames = {n: pl.LazyFrame({n: [1]}).map_batches(noted) for n in ("metrics", "samples")}
    results = Results(frames)
    for _ in range(2):
        for name in frames:
            assert results[name].collect()[name].to_list() == [1]
    assert sorted(read) == [["metrics"], ["samples"], ["samples"]]
