"""The run folder: what is written, how it is read again, and what is refused."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

import polars as pl
import pytest
from store_helpers import acc_rows, fail, finish, make_cell, make_suite, new_run, synthetic_run

from ssmbench.errors import CommandError, NumericalError, StoreError
from ssmbench.store import atomic, attempts, columns, compact, contents, read, sql, status
from ssmbench.store.artifacts import Artifacts
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import Ledger


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "run")


def write(folder: RunFolder, attempt: str = "a1", **fields):
    cell, suite = make_cell(), make_suite()
    options = {
        "cell_id": cell.id,
        "attempt_id": attempt,
        "suite": suite,
        "result_rows": acc_rows({"ending": [1, 0, 1]}),
        "facts": {"params_model": 7},
        **fields,
    }
    return attempts.write_suite(folder, **options)


def write_four(folder: RunFolder) -> None:
    for k in range(4):
        write(folder, f"a{k}")


# --- the folder ---------------------------------------------------------------------------


def test_creating_a_run_twice_opens_it(folder):
    again = RunFolder.create(folder.path, grid_text="other", resolved={})
    assert again == folder
    assert again.facts()["grid"] == "models: []\n"


def test_an_interrupted_creation_is_taken_up(tmp_path):
    (tmp_path / ".tmp-half").write_text("{")
    assert new_run(tmp_path).facts()["schema_version"] == columns.SCHEMA_VERSION


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"holds 'thesis.tex' and no run.json"):
        new_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not a run folder"),
        ("{", "is not JSON"),
        ("{}", "is not ours"),
        ("[]", "is not ours"),
        ('{"format": "ssmbench run", "schema_version": 99, "created_by": "ssmbench 9"}', "Upgrade"),
        ('{"format": "ssmbench run"}', "schema_version is None"),
    ],
)
def test_opening_what_is_not_a_run_folder_says_so(tmp_path, text, said):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(StoreError, match=said):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("address", ["s3:/bucket/run", Path("s3://bucket/run"), "ftp://host/run"])
def test_a_wrong_address_is_refused_instead_of_making_a_folder_of_its_name(
    tmp_path, monkeypatch, address
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"expected .*s3://"):
        RunFolder.create(address, grid_text="", resolved={})
    assert list(tmp_path.iterdir()) == []


# --- files appear whole -------------------------------------------------------------------


def test_a_written_file_is_never_overwritten(tmp_path):
    atomic.write_bytes(tmp_path / "x", b"first")
    with pytest.raises(FileExistsError):
        atomic.write_bytes(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_without_hard_links_works_too(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    atomic.write_bytes(tmp_path / "x", b"first")
    with pytest.raises(FileExistsError):
        atomic.write_bytes(tmp_path / "x", b"second")
    assert (tmp_path / "x").read_bytes() == b"first"


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_return(folder, monkeypatch):
    done: list[tuple[str, str]] = []
    fsync, link = os.fsync, os.link

    def seen_fsync(descriptor):
        done.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def seen_link(source, target):
        done.append(("link", str(source)))
        done.append(("named", str(Path(target).parent)))
        link(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "link", seen_link)
    write(folder)
    links = [i for i, (what, _) in enumerate(done) if what == "link"]
    assert len(links) == 3  # metrics, samples, mark
    for i in links:
        # Of all files, before the first name; then the folder, after the last.
        assert ("fsync", done[i][1]) in done[: links[0]]
    assert done[-1] == ("fsync", done[links[-1] + 1][1])


def test_of_files_written_together_none_is_there_if_one_cannot_be_written(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_together([(tmp_path / "x", b"1"), (tmp_path / "y", b"2")])
    assert list(tmp_path.iterdir()) == []


def test_files_written_together_never_overwrite(tmp_path):
    (tmp_path / "y").write_bytes(b"first")
    with pytest.raises(FileExistsError):
        atomic.write_together([(tmp_path / "x", b"1"), (tmp_path / "y", b"2")])
    assert (tmp_path / "y").read_bytes() == b"first"
    assert {p.name for p in tmp_path.iterdir()} == {"x", "y"}


def test_others_may_read_what_a_worker_wrote(tmp_path):
    atomic.write_bytes(tmp_path / "x", b"")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("call", ["write", "fsync", "link", "open"])
@pytest.mark.parametrize("after", range(4))
def test_a_full_disk_leaves_no_visible_half(folder, monkeypatch, call, after):
    real, calls = getattr(os, call), []

    def full(*args, **options):
        calls.append(args)
        if len(calls) > after and (call != "write" or len(calls) == after + 1):
            if call == "write":
                real(args[0], bytes(args[1])[:3])
            raise OSError(28, "No space left on device")
        return real(*args, **options)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_four(folder)
    monkeypatch.undo()
    marks = attempts.read_suite_marks(folder)
    names = {m.attempt_id for m in marks}
    files = [f for f in folder.attempts_dir.rglob("*") if f.is_file()]
    visible = {f.name.split(".")[1] for f in files if not f.name.startswith(".")}
    assert visible == names
    assert not [f for f in files if f.name.startswith(atomic.TEMPORARY)]


# --- a suite ------------------------------------------------------------------------------


def test_a_suite_reads_back_as_written(folder):
    cell, suite = make_cell(), make_suite(limit=3)
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, cell, suite, acc_rows({"ending": [1, 0, 1]}), attempt="a1")
    rows = read.tables(folder)["metrics"].collect()
    assert rows.schema == columns.schema("metrics")
    row = rows.row(0, named=True)
    assert row["value"] == pytest.approx(2 / 3)
    assert (row["cell_id"], row["suite"], row["limit"], row["n"]) == (cell.id, "zero_shot", 3, 3)
    cells = read.tables(folder)["cells"].collect().row(0, named=True)
    assert (cells["status"], cells["reason"], cells["compression_mixer"]) == ("done", None, 0.5)


def test_an_attempt_writes_a_suite_once(folder):
    write(folder)
    with pytest.raises(StoreError, match="writes a suite once"):
        write(folder)


def test_an_attempt_ends_once(folder):
    outcome = {"cell_id": "c", "attempt_id": "a", "status": "done"}
    attempts.write_outcome(folder, outcome)
    with pytest.raises(StoreError, match="ends once"):
        attempts.write_outcome(folder, outcome)


def test_a_damaged_suite_is_not_adopted(folder, caplog):
    mark = write(folder)
    path = folder.table_file(mark.cell_id, "a1", mark.suite_id, "samples")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert attempts.read_suite_marks(folder) == []
    assert "does not match the checksum" in caplog.text


def test_what_is_committed_is_not_read_again_when_looking_for_suites_to_adopt(folder):
    mark = write(folder)
    assert attempts.read_suite_marks(folder) == [mark]
    assert attempts.read_suite_marks(folder, skip={(mark.cell_id, mark.suite_id)}) == []


def test_a_number_that_is_not_finite_is_a_numerical_error(folder):
    rows = {"metrics": [{"task": "t", "metric": "ppl", "value": float("inf")}]}
    with pytest.raises(NumericalError, match=r"t\.ppl has value = inf"):
        write(folder, result_rows=rows)
    assert not folder.attempts_dir.exists()


def test_a_spread_of_one_document_is_null(folder):
    rows = {"metrics": [{"task": "t", "metric": "acc", "value": 1.0, "stderr": float("nan")}]}
    mark = write(folder, result_rows=rows)
    path = folder.table_file(mark.cell_id, "a1", mark.suite_id, "metrics")
    assert pl.read_parquet(path)["stderr"].to_list() == [None]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"task": "t", "metric": "acc", "value": None}, "null without a reason"),
        ({"task": "t", "metric": "acc", "valeu": 1.0}, "Did you mean 'value'"),
        ({"metric": "acc", "value": 1.0}, "lacks 'task'"),
    ],
)
def test_rows_that_do_not_fit_the_columns_are_a_bug_of_the_suite(folder, row, said):
    with pytest.raises(ValueError, match=said):
        write(folder, result_rows={"metrics": [row]})


# --- the tables ---------------------------------------------------------------------------


def test_compacted_tables_equal_the_attempts_own(tmp_path):
    folder = synthetic_run(tmp_path / "run", n_docs=10)
    live = {name: frame.collect() for name, frame in read.tables(folder).items()}
    place = compact.compact(folder)
    assert place == folder.compact_dir / contents.state_key(folder)
    for name, frame in read.tables(folder).items():
        assert frame.collect().equals(live[name]), name


def test_tables_are_in_the_order_of_the_plan_whichever_ended_first(folder):
    cells, suites = [make_cell(seed=s) for s in range(2)], [make_suite("b"), make_suite("a")]
    with Ledger.open(folder) as ledger:
        for cell in cells:
            ledger.cell(cell, suites)
        for k, (cell, suite) in enumerate([(c, s) for c in cells[::-1] for s in suites[::-1]]):
            finish(folder, ledger, cell, suite, acc_rows({"t": [1]}), attempt=f"a{k}")
    found = read.tables(folder)["metrics"].select("cell_id", "suite").collect().rows()
    assert found == [(c.id, s) for c in cells for s in ("b", "a")]


def test_compaction_of_an_older_ledger_is_not_used(folder):
    suite = make_suite()
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, make_cell(), suite, acc_rows({"ending": [1]}), attempt="a1")
        compact.compact(folder)
        finish(folder, ledger, make_cell(seed=1), suite, acc_rows({"ending": [1]}), attempt="a2")
    assert read.tables(folder)["metrics"].collect().height == 2


def test_a_compaction_that_knew_fewer_columns_is_not_used(folder, monkeypatch):
    with monkeypatch.context() as older:
        older.setitem(columns.TABLES, "attempts", columns.TABLES["attempts"][:-2])
        before = contents.state_key(folder)
    assert contents.state_key(folder) != before


def test_a_table_opened_before_a_compaction_can_still_be_collected_after_it(folder):
    suite = make_suite()
    with Ledger.open(folder) as ledger:
        for seed in range(4):
            cell = make_cell(seed=seed)
            finish(folder, ledger, cell, suite, acc_rows({"t": [1]}), attempt=f"a{seed}")
            before = read.tables(folder)["metrics"]
            compact.compact(folder)
            assert before.collect().height == seed + 1
            now = read.tables(folder)["metrics"]
            assert now.collect().height == seed + 1
    assert len(list(folder.compact_dir.iterdir())) == 2


def test_files_of_an_older_version_read_with_nulls_and_of_a_newer_one_without_its_columns(
    folder, monkeypatch
):
    other_columns = {
        make_cell(seed=0).id: lambda frame: frame.drop("chance", "best", strict=False),
        make_cell(seed=1).id: lambda frame: frame.with_columns(colour=pl.lit("red")),
    }
    real = atomic.parquet_bytes

    def parquet_bytes(frame):
        return real(other_columns.get(frame["cell_id"][0], lambda frame: frame)(frame))

    monkeypatch.setattr(atomic, "parquet_bytes", parquet_bytes)
    with Ledger.open(folder) as ledger:
        for seed in range(3):
            rows = acc_rows({"ending": [1, 0]})
            cell = make_cell(seed=seed)
            finish(folder, ledger, cell, make_suite(), rows, attempt=f"a{seed}")
    rows = read.tables(folder)["metrics"].collect()
    assert rows.schema == columns.schema("metrics")
    assert rows["chance"].to_list() == [None, 0.25, 0.25]


def test_a_committed_file_that_is_gone_is_named(folder):
    cell, suite = make_cell(), make_suite()
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, cell, suite, acc_rows({"ending": [1, 0]}), attempt="a1")
    gone = folder.table_file(cell.id, "a1", suite.id, "samples")
    gone.unlink()
    with pytest.raises(StoreError, match=f"{gone.name}: is gone"):
        read.tables(folder)


def test_an_empty_run_has_empty_tables_with_all_columns(folder):
    for name, frame in read.tables(folder).items():
        assert frame.collect_schema() == columns.schema(name)
        assert frame.collect().height == 0


def test_every_execution_is_an_attempt_whether_it_left_an_outcome_or_not(folder):
    cell, suite = make_cell(), make_suite()
    outcome = {"attempt_id": "a1", "cell_id": cell.id, "status": "failed", "number": 1}
    outcome |= {"error_class": "numerical", "versions": {"torch": "2"}, "peak": 3}
    with Ledger.open(folder) as ledger:
        ledger.cell(cell, [suite])
        attempts.write_outcome(folder, outcome | {"started_s": 5.0})
        fail(ledger, cell, [suite], attempt="a1", error_class="numerical", final=False)
        fail(ledger, cell, [suite], attempt="a2", error_class="crashed", final=False)
        finish(folder, ledger, cell, suite, acc_rows({"t": [1]}), attempt="a3")
    rows = read.tables(folder)["attempts"].collect()
    assert rows["attempt_id"].to_list() == ["a1", "a2", "a3"]
    assert rows["error_class"].to_list() == ["numerical", "crashed", None]
    assert rows["status"].to_list() == ["failed", "failed", "done"]
    assert json.loads(rows["versions"][0]) == {"torch": "2"}
    assert rows["log"][1] == f"logs/{cell.id}/x.log"


def test_reading_while_a_driver_writes_sees_whole_suites_only(folder):
    suite, stop, seen, errors = make_suite(), threading.Event(), [0], []

    def look() -> None:
        try:
            while not stop.is_set():
                tables = {k: v.collect() for k, v in read.tables(folder).items()}
                per_cell = tables["samples"].group_by("cell_id").len()["len"].to_list()
                assert set(per_cell) <= {3}
                assert len(per_cell) >= seen[0]
                seen[0] = len(per_cell)
        except BaseException as problem:  # noqa: BLE001 - carried to the main thread
            errors.append(problem)

    reader = threading.Thread(target=look)
    reader.start()
    with Ledger.open(folder) as ledger:
        for seed in range(40):
            cell = make_cell(seed=seed)
            finish(folder, ledger, cell, suite, acc_rows({"t": [1, 0, 1]}), attempt=f"a{seed}")
            if seed % 10 == 0:
                compact.compact(folder)
    stop.set()
    reader.join()
    assert errors == []


# --- sql and status -----------------------------------------------------------------------


def test_sql_joins_the_tables(tmp_path):
    folder = synthetic_run(tmp_path / "run", n_docs=10)
    got = sql.query(
        folder,
        "select c.model, count(*) as n from cells c join metrics m using (cell_id)"
        " where c.method = 'dense' and m.metric = 'acc' group by c.model order by c.model",
    )
    assert got.rows() == [("zoo-mamba-s", 6), ("zoo-mamba2", 6)]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("select valeu from metrics", "no column 'valeu' in 'metrics'. Did you mean 'value'"),
        ("select m.valeu from metrics m", "no column 'valeu' in 'metrics'. Did you mean 'value'"),
        ("select * from metric", "no table 'metric'. Did you mean 'metrics'"),
        ("selec 1", "Expected: an SQL statement, found: selec"),
    ],
)
def test_a_wrong_statement_is_explained(folder, statement, said):
    with pytest.raises(CommandError) as caught:
        sql.query(folder, statement)
    assert said in str(caught.value)


def test_status_counts_cells_and_names_the_failures(tmp_path):
    folder = synthetic_run(tmp_path / "run", n_docs=5)
    got = status.status(folder)
    assert (got.n_done, got.n_failed, got.n_to_do) == (24, 2, 12)
    assert got.driver is None
    assert len(got.failures) == 6
    first = got.failures[0]
    assert (first.label, first.suite) == ("zoo-mamba-s · magnitude 0.7", "zero_shot")
    assert first.log == f"logs/{first.cell_id}/x.log"
    with Ledger.open(folder):
        assert status.status(folder).driver.pid == os.getpid()


def test_a_failure_of_a_suite_that_the_grid_no_longer_asks_for_does_not_count(folder):
    cell, kept, dropped = make_cell(), make_suite(), make_suite("latency")
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, cell, kept, acc_rows({"t": [1]}), attempt="a1")
        ledger.cell(cell, [kept, dropped])
        fail(ledger, cell, [dropped])
        assert status.status(folder).n_failed == 1
        ledger.cell(cell, [kept])
    assert status.status(folder).n_done == 1
    assert status.status(folder).failures == ()


# --- artifacts ----------------------------------------------------------------------------


def test_an_artifact_is_published_once_and_found(folder):
    store, key = Artifacts(folder), {"what": "norms", "samples": 4}
    assert store.get(key) is None
    first = store.publish(key, lambda path: (path / "x").write_text("1") and None)
    again = store.publish(key, lambda path: (path / "x").write_text("2") and None)
    assert first == again == store.get(key)
    assert (first / "x").read_text() == "1"


def test_of_two_that_publish_at_once_the_first_wins(folder):
    store, key = Artifacts(folder), {"what": "norms"}

    def slow(path: Path) -> None:
        store.publish(key, lambda other: (other / "x").write_text("fast") and None)
        (path / "x").write_text("slow")

    assert (store.publish(key, slow) / "x").read_text() == "fast"
    assert len(list(folder.artifacts_dir.iterdir())) == 1


def test_an_artifact_that_fails_half_way_is_not_there(folder):
    def breaks(path: Path) -> None:
        (path / "x").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Artifacts(folder).publish({"k": 1}, breaks)
    assert Artifacts(folder).get({"k": 1}) is None
    assert list(folder.artifacts_dir.iterdir()) == []


# --- the documentation --------------------------------------------------------------------

RESULTS_PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def test_the_page_on_results_describes_every_column_as_it_is():
    page = RESULTS_PAGE.read_text(encoding="utf-8")
    stale = "docs/results.md is stale: write columns.fill_in(its text) to it"
    assert columns.fill_in(page) == page, stale
    assert page.count("### `") == len(columns.TABLES)


def test_the_pages_examples_of_sql_run(tmp_path):
    folder = synthetic_run(tmp_path / "run", n_docs=5)
    examples = re.findall(r'ssmbench sql runs/\w+ "\n(.+?)"\n', RESULTS_PAGE.read_text(), re.S)
    assert len(examples) == 4
    for example in examples:
        sql.query(folder, example)
