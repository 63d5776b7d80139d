"""Intervals and tests for paired differences: against naive twins, and against the truth.

The simulations make data with a known difference and count how often its 95 % interval has it.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from ssmbench.report import _bootstrap, _statistics
from ssmbench.report._scores import Score, Scores, mean_score, scores
from ssmbench.store.columns import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

HONEST = (0.93, 0.97)


# --- tests and intervals of counts --------------------------------------------------------


def counts_up_to(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of gained and lost that n documents can have."""
    gained, lost = np.meshgrid(np.arange(n + 1), np.arange(n + 1))
    some = gained + lost <= n
    return gained[some], lost[some]


def test_mcnemar_is_the_binomial_sum():
    gained, lost = counts_up_to(40)
    for g, k, p in zip(
        gained.tolist(), lost.tolist(), _statistics.mcnemar(gained, lost), strict=True
    ):
        tail = sum(math.comb(g + k, i) for i in range(min(g, k) + 1))
        assert p == pytest.approx(min(1, 2 * tail / 2 ** (g + k)), rel=1e-10)


def test_mcnemar_of_many_documents_does_not_overflow():
    (p,) = _statistics.mcnemar(np.array([5_100]), np.array([4_900]))
    # z = (200 − 1) / sqrt(10,000), with the continuity correction.
    assert p == pytest.approx(math.erfc(1.99 / math.sqrt(2)), rel=1e-3)


def test_the_interval_of_a_published_example():
    # Fagerland, Lydersen & Laake (Stat. Med. 33, 2014), airway hyper-responsiveness of 21
    # children: 1 gained, 7 lost. Tango's interval; McNemar's exact test keeps zero.
    gained, lost = np.array([1]), np.array([7])
    low, high = _statistics.tango(gained, lost, 21)
    assert (low[0], high[0]) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert _statistics.mcnemar(gained, lost)[0] == pytest.approx(0.0703, abs=5e-5)
    low, high, _ = _statistics.changed(gained, lost, 21)
    assert (low[0], high[0]) == (pytest.approx(-0.517, abs=5e-4), 0)


@pytest.mark.parametrize("n", [1, 2, 30, 1000])
def test_where_nothing_changed_the_interval_has_a_width(n):
    zero = np.array([0])
    low, high, p = _statistics.changed(zero, zero, n)
    assert high[0] == -low[0] == pytest.approx(_statistics.Z95**2 / (n + _statistics.Z95**2))
    assert p[0] == 1


@pytest.mark.parametrize("n", [1, 6, 25, 60])
def test_interval_p_and_value_of_counts_never_contradict(n):
    gained, lost = counts_up_to(n)
    low, high, p = _statistics.changed(gained, lost, n)
    plain_low, plain_high = _statistics.tango(gained, lost, n)
    assert (((low > 0) | (high < 0)) == (p < 0.05)).all()
    # The exact test only ever keeps more: the interval reaches to zero at most.
    assert (np.isin(low, (0,)) | (low == plain_low)).all()
    assert (np.isin(high, (0,)) | (high == plain_high)).all()
    assert ((low <= (gained - lost) / n) & ((gained - lost) / n <= high)).all()
    assert ((low >= -1) & (high <= 1)).all()


def test_the_interval_turns_with_the_difference():
    gained, lost = counts_up_to(30)
    low, high, p = _statistics.changed(gained, lost, 30)
    turned_low, turned_high, turned_p = _statistics.changed(lost, gained, 30)
    assert turned_low == pytest.approx(-high, abs=1e-9)
    assert turned_high == pytest.approx(-low, abs=1e-9)
    assert (turned_p == p).all()


@pytest.mark.parametrize(
    ("freedom", "t95"), [(1, 12.706), (2, 4.303), (5, 2.571), (9, 2.262), (60, 2.000), (1e9, 1.960)]
)
def test_students_distribution_is_that_of_the_tables(freedom, t95):
    assert _statistics.student_95(freedom) == pytest.approx(t95, abs=5e-4)
    assert _statistics.student_p(_statistics.student_95(freedom), freedom) == pytest.approx(0.05)
    assert _statistics.student_p(0, freedom) == 1
    tail, step = 0.0, 1e-3  # Its density from 3 on, summed.
    if freedom < 100:
        scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2)
        scale /= math.sqrt(freedom * math.pi)
        x = np.arange(3 + step / 2, 3000, step)
        tail = 2 * step * scale * float(((1 + x**2 / freedom) ** (-(freedom + 1) / 2)).sum())
        assert _statistics.student_p(3, freedom) == pytest.approx(tail, rel=2e-3)


def test_a_mean_of_symmetric_intervals_is_the_normal_one():
    values, halves = np.array([0.1, -0.2, 0.4]), np.array([0.03, 0.04, 0.12])
    low, high = _statistics.mover(values, values - halves, values + halves)
    half = math.sqrt(0.03**2 + 0.04**2 + 0.12**2) / 3
    assert (low, high) == pytest.approx((0.1 - half, 0.1 + half))


def test_a_means_upper_limit_is_made_of_upper_limits():
    low, high = _statistics.mover(np.zeros(2), np.array([-0.3, -0.4]), np.array([0.6, 0.8]))
    assert (low, high) == pytest.approx((-0.25, 0.5))


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_his_procedure(seed):
    luck = random.Random(seed)
    ps = [None if luck.random() < 0.1 else luck.random() ** 3 for _ in range(luck.randrange(30))]
    adjusted = _statistics.holm(ps)
    assert [a is None for a in adjusted] == [p is None for p in ps]
    for level in (0.001, 0.01, 0.05, 0.2, 0.6):
        # Step down: reject the smallest while it is below level over the number that is left.
        left, rejected = sorted(p for p in ps if p is not None), set()
        while left and left[0] <= level / len(left):
            rejected.add(left.pop(0))
        assert {
            p for p, a in zip(ps, adjusted, strict=True) if a is not None and a <= level
        } == rejected


def test_holm_by_hand():
    assert _statistics.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])


# --- documents drawn again ----------------------------------------------------------------


def naive_quantile(pivots: list[float]) -> float:
    return sorted(pivots)[math.ceil(0.95 * (len(pivots) + 1)) - 1]


def all_counts(n: int) -> list[list[int]]:
    return [[int(c) for c in draw] for block in _bootstrap.counts(n) for draw in block]


def naive_ratio(d: list[float], w: list[float]) -> tuple[float, float]:
    """The module's formulas, one draw and one document after the other."""

    def statistics(d: list[float], w: list[float]) -> tuple[float, float]:
        n, ratio = len(d), sum(d) / sum(w)
        squares = sum((x - ratio * y) ** 2 for x, y in zip(d, w, strict=True))
        return ratio, math.sqrt(n / (n - 1) * squares) / sum(w)

    ratio, spread = statistics(d, w)
    pivots = []
    for draw in all_counts(len(d)):
        if sum(c > 0 for c in draw) > 1:
            drawn = [i for i, c in enumerate(draw) for _ in range(c)]
            r, s = statistics([d[i] for i in drawn], [w[i] for i in drawn])
            pivots.append(abs(r - ratio) / s)
    half = max(naive_quantile(pivots), _statistics.student_95(len(d) - 1)) * spread
    return ratio - half, ratio + half


def naive_bounded(d: list[float]) -> tuple[float, float]:
    def statistics(d: list[float]) -> tuple[float, float]:
        d = [*d, 1.0, -1.0]
        n, mean = len(d), sum(d) / len(d)
        return mean, math.sqrt(sum((x - mean) ** 2 for x in d)) / n

    centre, spread = statistics(d)
    mean = sum(d) / len(d)
    pivots = []
    for draw in all_counts(len(d)):
        r, s = statistics([d[i] for i, c in enumerate(draw) for _ in range(c)])
        pivots.append(abs(r - mean) / s)
    half = max(naive_quantile(pivots), _statistics.student_95(len(d) - 1)) * spread
    return max(-1.0, centre - half), min(1.0, centre + half)


@pytest.mark.parametrize("n", [2, 3, 7, 12])
def test_ratios_are_those_of_a_loop(n):
    luck = np.random.default_rng(n)
    w = luck.integers(1, 50, n).astype(float)
    d = luck.standard_t(3, (2, n)) * w
    low, high = _bootstrap.ratios(d, w)
    for i in range(2):
        expected = naive_ratio(d[i].tolist(), w.tolist())
        assert (low[i], high[i]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n", [2, 7, 40])
def test_bounded_means_are_those_of_a_loop(n):
    luck = np.random.default_rng(n)
    d = luck.integers(-3, 4, (2, n)) / 3 * (luck.random((2, n)) < 0.4)
    low, high = _bootstrap.bounded(d)
    for i in range(2):
        expected = naive_bounded(d[i].tolist())
        assert (low[i], high[i]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_rows_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    luck = np.random.default_rng(5)
    w = luck.integers(1, 50, 30).astype(float)
    d = luck.standard_t(3, (8, 30)) * w
    together = _bootstrap.ratios(d, w)
    monkeypatch.setattr(_bootstrap, "_AT_ONCE", 1)
    apart = _bootstrap.ratios(d, w)
    assert apart[0] == pytest.approx(together[0], rel=1e-5)
    assert apart[1] == pytest.approx(together[1], rel=1e-5)


def test_counts_are_poissons_and_the_same_again():
    drawn = np.concatenate(list(_bootstrap.counts(500)))
    assert drawn.shape == (_bootstrap.DRAWS, 500)
    assert (drawn.mean(), drawn.var()) == pytest.approx((1, 1), abs=0.01)
    assert (drawn == 0).mean() == pytest.approx(math.exp(-1), abs=0.002)
    assert np.array_equal(drawn, np.concatenate(list(_bootstrap.counts(500))))


def test_blocks_of_counts_are_small_whatever_the_number_of_documents():
    blocks = _bootstrap.counts(400_000)
    assert next(blocks).nbytes <= 4 * 2**21


def test_equal_nats_give_an_interval_without_width():
    low, high = _bootstrap.ratios(np.zeros((1, 5)), np.arange(1.0, 6.0))
    assert (low[0], high[0]) == (0, 0)


def test_bounded_means_where_nothing_changed_are_as_wide_as_bonett_and_prices():
    low, high = _bootstrap.bounded(np.zeros((1, 200)))
    assert high[0] == -low[0] == pytest.approx(_statistics.Z95 * math.sqrt(2) / 202)


# --- what is true ------------------------------------------------------------------------


def covered(low, high, truth: float) -> float:
    return float(((low <= truth) & (truth <= high)).mean())


@pytest.mark.parametrize(
    ("n", "share", "truth"),
    [
        (50, 0.4, -0.1), (50, 0.4, 0.2), (100, 0.2, -0.03), (100, 0.4, -0.3), (300, 0.1, -0.01),
        (300, 0.1, 0.06), (300, 0.4, -0.1), (1000, 0.02, -0.01), (1000, 0.1, -0.03),
        (1000, 0.3, 0.005), (5000, 0.02, 0.001), (5000, 0.1, -0.01), (5000, 0.4, -0.2),
    ],
)  # fmt: skip
def test_accuracies_cover_the_truth(n, share, truth):
    """`share` of the documents change on average, ten or more; `truth` is gained − lost."""
    luck = np.random.default_rng(n)
    chances = [(share + truth) / 2, (share - truth) / 2, 1 - share]
    gained, lost, _ = luck.multinomial(n, chances, 10_000).T
    low, high, _ = _statistics.changed(gained, lost, n)
    assert HONEST[0] <= covered(low, high, truth) <= HONEST[1]


@pytest.mark.parametrize("n", [10, 50, 300])
@pytest.mark.parametrize(("share", "truth"), [(0.005, 0.0), (0.02, -0.01), (0.03, -0.03)])
def test_accuracies_with_few_changes_cover_at_least_as_often(n, share, truth):
    luck = np.random.default_rng(n)
    chances = [(share + truth) / 2, (share - truth) / 2, 1 - share]
    gained, lost, _ = luck.multinomial(n, chances, 10_000).T
    low, high, _ = _statistics.changed(gained, lost, n)
    assert covered(low, high, truth) >= HONEST[0]


@pytest.mark.parametrize("n", [50, 300, 5000])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_no_difference_is_found_where_there_is_none(n, share):
    luck = np.random.default_rng(n)
    gained, lost, _ = luck.multinomial(n, [share / 2, share / 2, 1 - share], 10_000).T
    low, high, p = _statistics.changed(gained, lost, n)
    assert (p < 0.05).mean() <= 0.05
    assert covered(low, high, 0) >= 0.95


def nats(n: int, sims: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Differences (30, n, seeds) in nats of n documents and their tokens, until `sims` are made.

    Tokens differ a hundredfold, short documents suffer more, documents have heavy tails to one
    side, and the seeds of a document have most of it in common. The truth is `NATS`.
    """
    luck = np.random.default_rng(n)
    for _ in range(sims // 30):
        tokens = luck.lognormal(5, 0.8, n)
        rate = luck.standard_t(4, (30, n)) * 0.05 + luck.lognormal(-3, 1, (30, n)) + 2 / tokens
        own = luck.normal(0, 0.05, (30, n, 3))
        yield (rate[:, :, None] + own) * tokens[:, None], tokens


NATS = math.exp(-2.5) + 2 / math.exp(5 + 0.8**2 / 2)


@pytest.mark.parametrize("n", [8, 20, 62, 200])
def test_nats_of_several_seeds_cover_the_truth(n):
    found = [covered(*_bootstrap.ratios(d.mean(2), tokens), NATS) for d, tokens in nats(n, 3_000)]
    assert HONEST[0] <= np.mean(found) <= HONEST[1]


def test_the_simulation_notices_seeds_taken_for_documents():
    found = [
        covered(*_bootstrap.ratios(d.reshape(30, -1), np.repeat(tokens, 3)), NATS)
        for d, tokens in nats(62, 1_000)
    ]
    assert np.mean(found) < HONEST[0]


def test_the_simulation_notices_plain_standard_errors():
    n, found = 20, []
    for d, tokens in nats(n, 3_000):
        ratio = d.mean(2).sum(1) / tokens.sum()
        residuals = d.mean(2) - ratio[:, None] * tokens
        half = 1.96 * np.sqrt(n / (n - 1) * (residuals**2).sum(1)) / tokens.sum()
        found.append(covered(ratio - half, ratio + half, NATS))
    assert np.mean(found) < HONEST[0]


def accuracies(sims: int, n: int, share: float, truth: float) -> np.ndarray:
    """Differences (sims, n) of accuracies, means over three seeds that mostly fail together."""
    luck = np.random.default_rng([n, 7])
    chance = luck.beta(share, 1 - share, (sims, n, 1))
    signs = np.where(luck.random((sims, n)) < (1 + truth / share) / 2, 1, -1)
    return (luck.random((sims, n, 3)) < chance).mean(2) * signs


@pytest.mark.parametrize(
    ("n", "share", "truth"),
    [(100, 0.3, -0.1), (300, 0.1, -0.03), (300, 0.3, -0.3), (1000, 0.05, 0.03)],
)
def test_accuracies_over_several_seeds_cover_the_truth(n, share, truth):
    low, high = _bootstrap.bounded(accuracies(2_000, n, share, truth))
    assert HONEST[0] <= covered(low, high, truth) <= HONEST[1]


@pytest.mark.parametrize(("n", "share", "truth"), [(20, 0.02, -0.01), (100, 0.05, -0.05)])
def test_accuracies_over_seeds_with_few_changes_cover_at_least_as_often(n, share, truth):
    low, high = _bootstrap.bounded(accuracies(1_000, n, share, truth))
    assert covered(low, high, truth) >= HONEST[0]


# --- from samples to scores ---------------------------------------------------------------

PAIRS = 1_000
# Documents, how many dense gets right, and what compression loses and gains of all.
TASKS = {
    "far_word": (60, 0.6, 0.30, 0.05), "ending": (80, 0.4, 0.15, 0.10),
    "choice": (50, 0.7, 0.20, 0.10), "facts_easy": (70, 0.5, 0.15, 0.05),
    "facts_hard": (40, 0.3, 0.12, 0.20), "pronoun": (90, 0.55, 0.25, 0.20),
}  # fmt: skip
MEAN = sum(gain - loss for _, _, loss, gain in TASKS.values()) / len(TASKS)


def samples(task: str, metric: str, values: np.ndarray, weights: np.ndarray) -> pl.DataFrame:
    """The table of that name from (cells, documents) values."""
    cells, n = values.shape
    return pl.DataFrame(
        {
            "cell_id": np.repeat(np.arange(cells), n),
            "suite_id": pl.repeat("s", cells * n, eager=True),
            "suite": pl.repeat("zero_shot", cells * n, eager=True),
            "task": pl.repeat(task, cells * n, eager=True),
            "doc_id": np.tile(np.arange(n), cells),
            "metric": pl.repeat(metric, cells * n, eager=True),
            "value": values.ravel().astype(float),
            "weight": np.tile(weights, cells).astype(float),
        }
    ).cast(schema("samples"))


def scored(found: list[pl.DataFrame], links: pl.DataFrame) -> Scores:
    """Score samples, with the metrics that they make."""
    table = pl.concat(found)
    metrics = (
        table.group_by("cell_id", "suite_id", "suite", "task", "metric")
        .agg(pl.col("value").sum() / pl.col("weight").sum(), pl.len().cast(pl.Int64).alias("n"))
        .with_columns(
            value=pl.when(metric="nll").then(pl.col("value").exp()).otherwise("value"),
            metric=pl.col("metric").replace("nll", "perplexity"),
            stderr=pl.lit(None, pl.Float64),
            reason=pl.lit(None, pl.String),
        )
    )
    return scores(metrics.lazy(), table.lazy(), links)


def links(seeds: int) -> pl.DataFrame:
    """Pairs of rows 2i (dense, one cell) and 2i + 1 (that many): one after the other."""
    rows = [row for i in range(PAIRS) for row in (2 * i, *[2 * i + 1] * seeds)]
    return pl.DataFrame(
        {
            "cell_id": map(str, range(len(rows))),
            "row": rows,
            "dense_row": [r // 2 * 2 for r in rows],
        }
    )


@pytest.fixture(scope="module")
def six_tasks() -> Scores:
    """A thousand pairs of models, six tasks each."""
    luck = np.random.default_rng(1)
    found = []
    for task, (n, right, loss, gain) in TASKS.items():
        dense = luck.random((PAIRS, n)) < right
        chance = np.where(dense, 1 - loss / right, gain / (1 - right))
        both = np.stack([dense, luck.random((PAIRS, n)) < chance], axis=1)
        found.append(samples(task, "acc", both.reshape(2 * PAIRS, n), np.ones(n)))
    return scored(found, links(1))


def cover(found: Scores, task: str, truth: float, metric: str = "acc") -> float:
    spans = [found[2 * i + 1, "s", task, metric].difference.interval for i in range(PAIRS)]
    return covered(*np.array(spans).T, truth)


@pytest.mark.parametrize("task", TASKS)
def test_differences_of_a_task_cover_the_truth(six_tasks, task):
    _, _, loss, gain = TASKS[task]
    assert HONEST[0] <= cover(six_tasks, task, gain - loss) <= HONEST[1]


def means(found: Scores) -> list[Score]:
    return [
        mean_score([found[2 * i + 1, "s", task, "acc"] for task in TASKS]) for i in range(PAIRS)
    ]


def test_differences_of_the_mean_of_six_tasks_cover_the_truth(six_tasks):
    spans = [score.difference.interval for score in means(six_tasks)]
    assert HONEST[0] <= covered(*np.array(spans).T, MEAN) <= HONEST[1]


def test_the_simulation_notices_errors_that_are_not_paired(six_tasks):
    spans = []
    for i, score in enumerate(means(six_tasks)):
        dense = mean_score([six_tasks[2 * i, "s", task, "acc"] for task in TASKS])
        assert dense.value is not None
        parts = [six_tasks[row, "s", t, "acc"] for row in (2 * i, 2 * i + 1) for t in TASKS]
        variance = sum(s.value * (1 - s.value) / s.n for s in parts) / len(TASKS) ** 2
        half = 1.96 * math.sqrt(variance)
        spans.append((score.value - dense.value - half, score.value - dense.value + half))
    assert covered(*np.array(spans).T, MEAN) > HONEST[1]


def test_no_sign_contradicts_another(six_tasks):
    every = [six_tasks[key].difference for key in six_tasks if key[0] % 2]
    every += [score.difference for score in means(six_tasks)]
    assert {change.verdict for change in every} == {"below", "above", "unclear"}
    for change in every:
        low, high = change.interval
        assert low <= change.value <= high
        assert (change.verdict == "unclear") == (change.p >= 0.05)
        assert {"above": low > 0, "below": high < 0}.get(change.verdict, low <= 0 <= high)


def test_a_perplexity_over_three_seeds_covers_the_truth():
    """One text of 60 documents: what dense says of it, and by how much each pair differs."""
    luck = np.random.default_rng(3)
    n = 60
    tokens = luck.lognormal(5, 0.8, n).round() + 1
    dense = luck.normal(3, 0.7, (PAIRS, 1, n)) * tokens
    documents = luck.standard_t(4, (PAIRS, 1, n)) * 0.05 + luck.lognormal(-3, 1, (PAIRS, 1, n))
    cut = dense + (documents + luck.normal(0, 0.03, (PAIRS, 3, n))) * tokens
    values = np.concatenate([dense, cut], axis=1).reshape(4 * PAIRS, n)
    found = scored([samples("text", "nll", values, tokens)], links(3))
    assert HONEST[0] <= cover(found, "text", math.exp(-2.5), "perplexity") <= HONEST[1]
    assert found[1, "s", "text", "perplexity"].seed_sd > 0
