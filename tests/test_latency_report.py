"""Tables of times: blocks, limits, details, and warnings of times that are not to be trusted."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest
from store_helpers import acc_rows, finish, make_cell, make_suite, new_run

from ssmbench.report import _render
from ssmbench.report._build import build_all
from ssmbench.store.ledger import Ledger
from ssmbench.store.rows import suite_frame

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.report._table import Shown, Table

DENSE = make_cell(method="dense", ratio=0.0)
CUT = make_cell(method="wanda", ratio=0.5)
ZERO, SPEED = make_suite(), make_suite("latency", device="cpu")
GRID = [(batch, length) for batch in (1, 4) for length in (128, 512, 1024, 2048)]


def time_row(phase: str, batch: int, length: int, **changes: Any) -> dict[str, Any]:
    median = 1e-5 * batch * length
    row = {"phase": phase, "batch": batch, "length": length, "median_s": median, "p10_s": median}
    row |= {"p90_s": 1.1 * median, "dense_median_s": 2 * median, "speedup": 2.0, "n": 5}
    row |= {"tokens_per_s": 1e5, "first_token_s": 1.25 * median, "floor_s": 0.5 * median}
    row |= {"peak_memory_bytes": 4 * 2**20, "weights_bytes": 2**20, "state_bytes": 2**10}
    return row | {"warmup_s": 3.0, "publishable": True, **changes}


def reported(folder: Path, mine: list[dict], dense: list[dict] | None = None) -> dict[str, Table]:
    run = new_run(folder / "run")
    with Ledger.open(run) as ledger:
        for cell in (DENSE, CUT):
            rows = acc_rows({"t": [1, 0, 1]})
            finish(run, ledger, cell, ZERO, rows, attempt=f"q{cell.ratio * 10:g}")
        for cell, rows in ((DENSE, mine if dense is None else dense), (CUT, mine)):
            finish(run, ledger, cell, SPEED, {"latency": rows}, attempt=f"t{cell.ratio * 10:g}")
    return {t.name: t for t in build_all(run) if t.name.startswith("cost-")}


def shown(table: Table, header: str, row: int = 1) -> Shown:
    (place,) = [i for i, c in enumerate(table.columns) if c.header == header]
    return table.rows[row][place]


def test_few_shapes_are_one_table_and_many_one_for_each_batch(tmp_path: Path) -> None:
    tables = reported(tmp_path, [time_row("prefill", *shape) for shape in GRID])
    assert list(tables) == [
        "cost-size",
        "cost-prefill-b1",
        "cost-prefill-b4",
        "cost-prefill-limit",
        "cost-prefill-details",
    ]
    block = tables["cost-prefill-b4"]
    assert block.title == "Cost: prefill on cpu, batch 4"
    shapes = ["4×128", "4×512", "4×1024", "4×2048"]
    assert [c.header for c in block.columns[3:]] == ["zero_shot mean", *shapes]
    assert shown(block, "4×512").text == "20.5 ms ×2.00"
    few = reported(tmp_path / "few", [time_row("prefill", *shape) for shape in GRID[:6]])
    assert "cost-prefill" in few


def test_every_table_of_times_has_the_quality(tmp_path: Path) -> None:
    rows = [time_row(phase, *shape) for phase in ("prefill", "decode") for shape in GRID]
    tables = reported(tmp_path, rows)
    del tables["cost-size"]
    assert len(tables) == 8
    for table in tables.values():
        assert shown(table, "zero_shot mean").text == "66.7 ±33.3"


def test_a_rate_without_a_graph_among_some_with_one_is_noted(tmp_path: Path) -> None:
    plain, captured = "plain: the keys of attention grow (layer 1)", "captured"
    mine, dense = ([time_row("decode", 1, 128, graph=g)] for g in (plain, captured))
    mixed = reported(tmp_path / "mixed", mine, dense)["cost-decode"]
    note = f"not as a CUDA graph, as others here: {plain}"
    assert [shown(mixed, "1×128", row).note for row in (0, 1)] == [None, note]
    alike = reported(tmp_path / "alike", mine, mine)["cost-decode"]
    assert [shown(alike, "1×128", row).note for row in (0, 1)] == [None, None]


def test_decoding_is_told_in_tokens_per_second(tmp_path: Path) -> None:
    tables = reported(tmp_path, [time_row("decode", 16, 512, first_token_s=None)])
    assert shown(tables["cost-decode"], "16×512").text == "100 k/s ×2.00"
    assert "first token" not in [c.header for c in tables["cost-decode-details"].columns]


def test_a_rate_that_was_not_told_is_missing_and_its_time_is_kept(tmp_path: Path) -> None:
    rows = [time_row("decode", 4, 512, tokens_per_s=None), time_row("decode", 16, 512)]
    cell = shown(reported(tmp_path, rows)["cost-decode"], "4×512")
    assert (cell.text, cell.note) == ("–", "tokens per second: not told by the attempt")
    assert cell.numbers["median_s"] == pytest.approx(0.02048)
    rows[0]["reason"] = "tokens_per_s: because"
    cell = shown(reported(tmp_path / "told", rows)["cost-decode"], "4×512")
    assert cell.note == "tokens_per_s: because"


def test_a_disturbed_time_without_a_dense_one_says_both(tmp_path: Path) -> None:
    alone = time_row("prefill", 1, 128, dense_median_s=None, speedup=None, publishable=False)
    cell = shown(reported(tmp_path, [alone])["cost-prefill"], "1×128")
    assert cell.note == (
        "taken while others used the device: not publishable;"
        " the dense model was not timed beside it"
    )


def test_the_limit_is_the_floor_over_the_time(tmp_path: Path) -> None:
    rows = [time_row("prefill", 1, 128), time_row("prefill", 4, 128, floor_s=None)]
    rows[1]["reason"] = "floor_s: out of memory"
    tables = reported(tmp_path, rows)
    limits = tables["cost-prefill-limit"]
    assert shown(limits, "1×128").text == "50"
    assert shown(limits, "4×128").note == "floor_s: out of memory"
    (_, line) = csv.DictReader(io.StringIO(_render.csv_text(tables["cost-prefill"])))
    assert float(line["1x128_of_limit"]) == 0.5
    assert float(line["1x128_first_token_s"]) == pytest.approx(1.6e-3)
    assert line["4x128_of_limit"] == ""


def test_details_are_of_the_largest_shape_that_most_rows_have(tmp_path: Path) -> None:
    rows = [time_row("prefill", 1, 128), time_row("prefill", 1, 512), time_row("prefill", 1, 2048)]
    fewer = [*rows[:2], time_row("prefill", 1, 2048, median_s=None, reason="median_s: too large")]
    details = reported(tmp_path, rows, fewer)["cost-prefill-details"]
    assert details.title == "Cost: prefill on cpu, 1×512 in detail"
    texts = {c.title: cell.text for c, cell in zip(details.columns, details.rows[1], strict=True)}
    assert texts == {
        "model": "zoo-mamba-s",
        "method": "wanda",
        "ratio": "0.5",
        "zero_shot mean [%]": "66.7 ±33.3",
        "median": "5.12 ms",
        "p10": "5.12 ms",
        "p90": "5.63 ms",
        "first token": "6.40 ms",
        "tokens/s": "100 k",
        "of the limit [%]": "50",
        "peak memory": "4.0 MiB",
        "of it weights": "1.0 MiB",
        "state": "1.0 KiB",
        "warm-up": "3.00 s",
    }
    with_p99 = reported(tmp_path / "b", [time_row("prefill", 1, 128, p99_s=0.5)])
    assert shown(with_p99["cost-prefill-details"], "p99").text == "500 ms"


def test_a_shape_without_a_time_says_why(tmp_path: Path) -> None:
    rows = [time_row("prefill", 1, 128)]
    reason = "median_s, dense_median_s: out of memory"
    rows.append({"phase": "prefill", "batch": 4, "length": 128, "reason": reason})
    rows.append(
        time_row("prefill", 4, 512, dense_median_s=None, speedup=None, reason="dense_median_s: x")
    )
    table = reported(tmp_path, rows)["cost-prefill"]
    assert (shown(table, "4×128").text, shown(table, "4×128").note) == ("–", reason)
    alone = shown(table, "4×512")
    assert alone.text == "20.5 ms"
    assert alone.note == "the dense model was not timed beside it (dense_median_s: x)"


def test_times_among_strangers_keep_their_numbers_and_carry_a_warning(tmp_path: Path) -> None:
    others = "others used 1.3 of 2 processors meanwhile"
    disturbed = time_row("prefill", 1, 512, publishable=False, disturbance=others)
    calm = [time_row("prefill", 1, 128), time_row("prefill", 1, 512)]
    tables = reported(tmp_path, [calm[0], disturbed], calm)
    table = tables["cost-prefill"]
    assert table.warnings == (
        "not publishable: 1 of 4 times were taken while others used the device"
        f" (for one, {others})",
    )
    assert shown(table, "1×512").text == "5.12 ms ×2.00"
    assert shown(table, "1×512").note == "taken while others used the device: not publishable"
    assert shown(table, "1×512", row=0).note is None
    assert shown(table, "1×128").note is None
    assert tables["cost-prefill-details"].warnings[0].startswith("not publishable: 1 of 2 times")
    calm_tables = reported(tmp_path / "calm", calm)
    assert all(not t.warnings for t in calm_tables.values())
    assert "is not known" not in " ".join(calm_tables["cost-prefill"].notes)


def test_a_device_that_does_not_tell_who_used_it_is_named(tmp_path: Path) -> None:
    table = reported(tmp_path, [time_row("prefill", 1, 128, publishable=None)])["cost-prefill"]
    assert "Whether others used the device meanwhile is not known of every time." in table.notes
    assert table.warnings == ()


def test_of_several_seeds_one_that_was_disturbed_is_enough(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with Ledger.open(run) as ledger:
        for seed, publishable in ((0, True), (1, False), (2, None)):
            rows = [time_row("prefill", 1, 128, publishable=publishable, disturbance="x")]
            cell = make_cell(seed=seed)
            finish(run, ledger, cell, SPEED, {"latency": rows}, attempt=f"t{seed}")
    (table,) = [t for t in build_all(run) if t.name == "cost-prefill"]
    assert table.warnings[0].startswith("not publishable: 1 of 1 times")


def test_a_row_without_a_time_needs_a_reason() -> None:
    row = {"phase": "prefill", "batch": 1, "length": 8}
    with pytest.raises(ValueError, match=r"suite latency: prefill\.1\.8 is null without a reason"):
        suite_frame("latency", [row], cell_id="c", suite=SPEED)
    (made,) = suite_frame(
        "latency", [row | {"reason": "median_s: full"}], cell_id="c", suite=SPEED
    ).to_dicts()
    assert (made["median_s"], made["reason"]) == (None, "median_s: full")
