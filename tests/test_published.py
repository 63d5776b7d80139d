"""The published numbers: copied whole, with what is known against them, and audited."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import pytest

from ssmbench import cli, plugins
from ssmbench.grid.catalogue import catalogue
from ssmbench.report import published
from ssmbench.report.published import NAMES, Place, by_place, defects, numbers, others, simba
from ssmbench.report.published.audit import TOLERANCE, audit, contradictions, notes

FOLDER = Path(published.__file__).parent
SIX = {"arc_challenge", "arc_easy", "hellaswag", "lambada_openai", "piqa", "winogrande"}
SUMS = {
    ("T1", False): "877.11",
    ("T2", False): "517.44",
    ("T3", False): "2.283",
    ("T4", True): "32.05",
    ("T5", True): "26.73",
    ("T6", True): "36.34",
    ("T7", True): "14.73",
    ("T8", True): "18.8",
    ("T9", True): "45.72",
    ("T3", True): "13.702",
}
KEYS = ("model", "method", "ratio", "heads_kept", "fine_tuned")


def raw(name: str, folder: Path = FOLDER) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / name).read_text("utf-8").splitlines()))


def plain(row: dict[str, str]) -> tuple:
    """A row's values as numbers where they are: 0.50 is 0.5."""

    def value(text: str) -> object:
        try:
            return Fraction(text)
        except ValueError:
            return text

    return tuple((key, value(text)) for key, text in sorted(row.items()))


# --- the data ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ssm_pruner_averages.csv", "ssm_pruner_tasks.csv"])
def test_every_number_of_the_first_paper_is_there_as_it_was_copied(name, shared):
    ours = [plain(row) for row in raw(name)]
    theirs = [plain(row) for row in raw(name, shared / "paper")]
    # Table 3's averages stand in its text; the copy of Tables 1 and 2 does not have them.
    added = [row for row in ours if row not in theirs]
    assert [row for row in ours if row in theirs] == theirs
    assert len(added) == (4 if "averages" in name else 0)
    assert all(dict(row)["source"] == "ssm-pruner:T3" for row in added)


def test_every_table_has_its_numbers_with_the_digits_that_it_prints():
    counts = defaultdict(int)
    for n in numbers():
        counts[n.table, n.what in SIX] += 1
        digits = 3 if n.table == "T3" else 2
        assert n.what == "compression" or n.digits == digits, n
        assert 0 <= n.value <= 1
    tasks = {"T3": 24, "T4": 96, "T5": 48, "T6": 96, "T7": 24, "T8": 48, "T9": 96}
    # Of Table 1's 52 cells 8 are WANDA's, which have no Comp.; Table 3 has none.
    other = {"T1": 52 + 44, "T2": 16 + 16, "T3": 4}
    expected = {(t, True): n for t, n in tasks.items()} | {(t, False): n for t, n in other.items()}
    assert counts == expected


def test_the_numbers_add_up_to_what_they_did_when_they_were_copied():
    """So that a changed digit is seen without the copy beside the checkout, too."""
    sums = defaultdict(Fraction)
    for n in numbers():
        sums[n.table, n.what in SIX] += Fraction(n.text)
    assert {k: str(float(v)) for k, v in sums.items()} == SUMS


def test_no_two_numbers_stand_at_one_place():
    assert len(by_place()) == len(numbers())


def test_heads_that_are_left_are_the_ratios_of_our_grid():
    found = {(n.model, n.heads_kept): n.place.ratio for n in numbers() if n.heads_kept}
    assert found == {
        ("Phi-Mamba-1.5B", 16): 0.5,
        ("Phi-Mamba-1.5B", 8): 0.75,
        ("Smol-Mamba-1.9B", 16): 0.5,
        ("Smol-Mamba-1.9B", 8): 0.75,
        ("Mamba-2-2.7B", 40): 0.5,
        ("Mamba-2-2.7B", 20): 0.75,
        ("HLM-3B", 4): 0.5,
        ("HLM-3B", 2): 0.75,
    }


def test_every_name_is_one_of_ours():
    models = {n.place.model for n in numbers()} | {n.model for n in simba() if n.model}
    models |= {n.model for n in others()}
    assert models <= set(catalogue())
    assert {n.place.method for n in numbers()} <= set(plugins.names("method"))
    assert {n.place.fine_tune for n in numbers()} == {"none", "kd", "ce"}


def test_every_source_is_named():
    found = {n.source.partition(":")[0] for n in (*numbers(), *simba(), *others())}
    assert found == set(published.SOURCES)


def test_what_is_known_of_simba():
    known = {(n.model, n.method, n.metric): n.value for n in simba() if n.model}
    assert known == {
        ("mamba-2.8b", "simba", "accuracy"): "0.625",
        ("mamba-1.4b", "dense", "accuracy"): "0.588",
        ("mamba-2.8b", "simba", "speedup_at_most"): "0.80",
    }


def test_the_shots_are_those_of_our_suite():
    settings = plugins.load("suite", "few_shot").SETTINGS
    asked = {(n.task, n.metric): n.value for n in simba() if n.source == "simba:A.1"}
    assert len(asked) == 12
    for (task, what), value in asked.items():
        ours = {"shots": str(settings[task].shots), "metric": settings[task].metrics[0]}
        assert value == ours[what], task


# --- the audit -----------------------------------------------------------------------------


def contradicting() -> dict[tuple, Fraction]:
    """Work the audit out again from the files alone, in exact fractions."""
    tasks = defaultdict(list)
    for row in raw("ssm_pruner_tasks.csv"):
        tasks[row["source"] == "ssm-pruner:T3", *(row[k] for k in KEYS)].append(
            Fraction(row["value"])
        )
    found = {}
    for row in raw("ssm_pruner_averages.csv"):
        key = (row["source"] == "ssm-pruner:T3", *(row[k] for k in KEYS))
        assert len(tasks[key]) == 6
        mean = sum(tasks[key]) / 6
        if abs(Fraction(row["average"]) - mean) > Fraction(15, 1000):
            found[key[1:]] = mean
    return found


def test_twelve_averages_contradict_their_own_rows():
    expected = contradicting()
    assert len(expected) == 12
    fine_tuned = {"none": "no", "kd": "yes"}
    found = {}
    for one in contradictions():
        n = one.average
        ratio = "" if n.heads_kept else f"{n.place.ratio:g}"
        kept = str(n.heads_kept or "")
        key = (n.model, n.place.method, ratio, kept, fine_tuned[n.place.fine_tune])
        found[key] = one.exact_mean
    assert found == expected


def test_the_means_are_those_that_were_found_by_hand():
    """spec/weight_pruning.md, 7.3, lists them roughly."""
    means = {one.average.place: f"{one.mean:.3f}" for one in contradictions()}
    merged = [Place("phi-mamba-1.5b", "merge", r, t) for r in (0.5, 0.75) for t in ("none", "kd")]
    assert [means[place] for place in merged] == ["0.557", "0.580", "0.545", "0.558"]
    assert means[Place("smol2-mamba-1.9b", "merge", 0.75, "kd")] == "0.482"
    assert means[Place("hlm-3b", "state", 0.5, "kd")] == "0.320"
    assert means[Place("mamba2-2.7b", "state", 0.25, "none")] == "0.478"


def test_the_tolerance_is_more_than_rounding_explains_and_nothing_lies_at_it():
    """Half a digit of six tasks and half a digit of their mean make 0.01 at most."""
    apart = [abs(Fraction(one.average.text) - one.exact_mean) for one in audit()]
    assert Fraction(str(TOLERANCE)) > Fraction(1, 100)
    assert min(abs(d - Fraction(str(TOLERANCE))) for d in apart) > Fraction(1, 1000)
    assert len([d for d in apart if Fraction(1, 100) <= d <= Fraction(str(TOLERANCE))]) == 6


def test_an_average_that_contradicts_its_rows_says_so():
    average = by_place()["T1", Place("mamba2-2.7b", "state", 0.25, "kd"), "average"]
    sentence = notes()[average][0]
    assert sentence == "Table 1 prints 0.54, but its rows in Table 9 have a mean of 0.480."


# --- what is known against them ------------------------------------------------------------


def test_every_defect_concerns_something_and_names_who_says_so():
    for defect in defects():
        concerned = [n for n in numbers() if defect.concerns(n)]
        assert concerned, defect
        assert defect.why
        assert defect.said_by
        assert defect.of in {"score", "task", "compression"}
        assert set(defect.models) <= set(NAMES)
        assert set(defect.tasks) <= SIX


COLLAPSED = {
    ("Phi-Mamba-1.5B", "head_dim"),
    ("Phi-Mamba-1.5B", "merge"),
    ("Smol-Mamba-1.9B", "head_dim"),
    ("Smol-Mamba-1.9B", "merge"),
    *(("HLM-3B", m) for m in ("state", "head_dim", "ssm_flap", "merge")),
    *(("Mamba-2-2.7B", m) for m in ("wanda", "head_dim", "ssm_flap", "merge")),
}


@pytest.mark.parametrize(("model", "method"), sorted(COLLAPSED))
def test_every_cell_that_the_public_code_gets_wrong_says_so(model, method):
    """The map of spec/weight_pruning.md, 7.0."""
    cells = [n for n in numbers() if (n.model, n.place.method) == (model, method)]
    scores = [n for n in cells if n.what != "compression"]
    assert scores
    assert all(any("public code" in note for note in notes().get(n, ())) for n in scores)


def test_cells_whose_code_is_right_have_no_such_note():
    for n in numbers():
        right = n.place.method == "wanda" and n.model != "Mamba-2-2.7B"
        if right or (n.model, n.place.method) == ("Phi-Mamba-1.5B", "ssm_flap"):
            assert not any("code" in note for note in notes().get(n, ())), n


def test_what_was_fine_tuned_without_a_loss_says_so_and_nobody_else():
    told = {n for n, texts in notes().items() if any("always 0" in text for text in texts)}
    expected = {n for n in numbers() if n.model == "Mamba-2-2.7B" and n.place.fine_tune == "kd"}
    assert told == {n for n in expected if n.what != "compression"}


def test_the_same_cell_in_two_tables_is_one_number_or_says_so():
    """Table 3 prints three decimals of cells that Tables 7 and 9 print with two."""
    told = set()
    for n in numbers():
        exact = by_place().get(("T3", n.place, n.what))
        if n.table in {"T7", "T9"} and exact is not None:
            apart = abs(Fraction(n.text) - Fraction(exact.text))
            if apart > Fraction(5, 1000):
                told.add((n, exact.text))
    assert len(told) == 3
    assert all(any(text in note for note in notes()[n]) for n, text in told)


def test_a_row_that_is_anothers_digit_for_digit_says_so():
    rows = defaultdict(dict)
    for n in numbers():
        if n.what in SIX:
            rows[n.source, n.place][n.what] = n
    texts = {key: {task: n.text for task, n in found.items()} for key, found in rows.items()}
    keys = list(rows)
    twins = [(a, b) for i, a in enumerate(keys) for b in keys[i + 1 :] if texts[a] == texts[b]]
    assert len(twins) == 2
    for pair in twins:
        found = [n for key in pair for n in rows[key].values()]
        told = [n for n in found if any("digit for digit" in x for x in notes().get(n, ()))]
        assert len(told) == 6, pair


# --- the command ---------------------------------------------------------------------------


def shown(capsys, *arguments: str) -> tuple[list[str], str]:
    assert cli.main(["published", *arguments]) == 0
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err


@pytest.mark.parametrize("format", ["table", "md"])
def test_the_audit_ends_with_their_number(capsys, format):
    out, _ = shown(capsys, "--audit", "--format", format)
    assert out[-1].startswith("12 ")
    for one in contradictions():
        line = [x for x in out if f"{one.mean:.3f}" in x and one.average.text in x]
        assert line, one.average.place


def test_the_audit_as_csv_is_rows_alone(capsys):
    out, err = shown(capsys, "--audit", "--format", "csv")
    rows = list(csv.DictReader(out))
    assert len(rows) == 12
    assert err.startswith("12 ")
    for row, one in zip(rows, contradictions(), strict=True):
        assert float(row["mean"]) == one.mean
        assert float(row["average"]) - float(row["mean"]) == pytest.approx(float(row["difference"]))


def test_the_command_shows_every_number(capsys):
    out, _ = shown(capsys, "--format", "csv")
    parts = "\n".join(out).split("# published-")[1:]
    tables = {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}
    rows = {name: list(csv.DictReader(io.StringIO(text))) for name, text in tables.items()}
    assert {name: len(found) for name, found in rows.items()} == {
        "averages": len(raw("ssm_pruner_averages.csv")),
        "tasks": len(raw("ssm_pruner_tasks.csv")) // 6,
        "simba": len(raw("simba.csv")),
        "others": len(raw("others.csv")),
    }
    published_values = sorted(float(row["value"]) for row in raw("ssm_pruner_tasks.csv"))
    assert sorted(float(row[task]) for row in rows["tasks"] for task in SIX) == published_values


def test_an_unknown_format_is_refused_in_one_sentence(capsys):
    assert cli.main(["published", "--format", "pdf"]) == 2
    assert "pdf" in capsys.readouterr().err
