"""A run folder in an object store: what a disk gives by append, link and rename, without them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from store_helpers import acc_rows, fail, finish, latency_rows, make_cell, make_suite, new_run

from ssmbench.errors import StoreError, UnreachableError
from ssmbench.store import (
    atomic,
    attempts,
    cache,
    compact,
    contents,
    holders,
    lock,
    logs,
    objects,
    read,
    sealed,
    segments,
    sql,
    status,
)
from ssmbench.store.address import Address
from ssmbench.store.artifacts import Artifacts
from ssmbench.store.folder import RunFolder
from ssmbench.store.ledger import Ledger, read_history

if TYPE_CHECKING:
    from pathlib import Path

    from s3_server import Server

CELL, SUITE = make_cell(), make_suite()


@pytest.fixture
def folder(s3) -> RunFolder:
    return new_run(s3)


def keys(folder: RunFolder, under: str = "") -> list[str]:
    start = len(folder.path.key) + 1
    place = folder.path / under if under else folder.path
    return sorted(entry.key[start:] for entry in place.below())


def small_run(place) -> RunFolder:
    """Three cells of two suites; one suite failed, one is still to do."""
    folder = new_run(place)
    suites = [SUITE, make_suite("latency", device="cpu")]
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run"})
        for seed in range(3):
            cell = make_cell(seed=seed)
            ledger.cell(cell, suites)
            finish(
                folder, ledger, cell, SUITE, acc_rows({"t": [1, 0, seed % 2]}), attempt=f"a{seed}"
            )
            outcome = {"cell_id": cell.id, "attempt_id": f"a{seed}", "status": "done"}
            attempts.write_outcome(folder, outcome | {"started_s": float(seed)})
        fail(ledger, make_cell(seed=1), suites[1:], attempt="b1")
        rows = latency_rows(0.01, 0.02)
        finish(folder, ledger, make_cell(seed=2), suites[1], rows, attempt="b2")
    return folder


# --- the same tables ----------------------------------------------------------------------


def test_a_run_reads_the_same_as_on_a_disk(tmp_path, s3):
    local, remote = small_run(tmp_path / "run"), small_run(s3)
    for when in ("attempts' files", "compacted"):
        here, there = read.tables(local), read.tables(remote)
        for name, frame in here.items():
            assert frame.collect().equals(there[name].collect()), (when, name)
        ours, theirs = status.status(local), status.status(remote)
        assert (ours.n_done, ours.failures) == (theirs.n_done, theirs.failures)
        compact.compact(local)
        compact.compact(remote)
    query = "select count(*) as n from cells c join metrics m using (cell_id)"
    assert sql.query(local, query).equals(sql.query(remote, query))


def test_a_table_is_fetched_once_by_a_machine(folder, s3_server):
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, CELL, SUITE, acc_rows({"t": [1, 0]}), attempt="a")
    first = read.tables(folder)["metrics"].collect()
    s3_server.requests.clear()
    assert read.tables(folder)["metrics"].collect().equals(first)
    assert not [path for method, path in s3_server.requests if "parquet" in path]


def test_older_compactions_go_but_for_the_one_before(folder):
    with Ledger.open(folder) as ledger:
        for seed in range(4):
            cell = make_cell(seed=seed)
            finish(folder, ledger, cell, SUITE, acc_rows({"t": [1]}), attempt=f"a{seed}")
            before = read.tables(folder)["metrics"]
            compact.compact(folder)
            assert before.collect().height == seed + 1
            assert read.tables(folder)["metrics"].collect().height == seed + 1
    assert len({key.split("/")[1] for key in keys(folder, "compact")}) == 2


# --- the ledger ---------------------------------------------------------------------------


def test_nothing_of_the_ledger_is_ever_replaced(folder, s3_server):
    s3_server.requests.clear()
    with Ledger.open(folder) as ledger:
        for n in range(10):
            ledger.append({"event": "run", "n": n})
    puts = [path for method, path in s3_server.requests if method == "PUT" and ".jsonl" in path]
    assert len(puts) == len(set(puts)) == 10
    assert [run["n"] for run in contents.read_contents(folder).runs] == list(range(10))
    assert len(keys(folder, "ledger")) == 1


def test_a_full_chunk_is_followed_by_the_next(folder, monkeypatch):
    monkeypatch.setattr(segments, "RECORDS_PER_CHUNK", 4)
    with Ledger.open(folder) as ledger:
        for n in range(3):
            ledger.append({"event": "run", "n": n})
        with ledger.batch():
            for n in range(3, 11):
                ledger.append({"event": "run", "n": n})
        ledger.append({"event": "run", "n": 11})
        assert [r["n"] for r in contents.read_contents(folder).runs] == list(range(12))
    chunks = [place.name.split("-")[2] for place in contents.segments(folder)]
    assert chunks == ["00001.0004.jsonl", "00002.0001.jsonl", "00003.0002.jsonl"]
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run", "n": 12})
    assert [r["n"] for r in contents.read_contents(folder).runs] == list(range(13))


def test_a_version_that_arrives_late_does_not_count(folder):
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run", "n": 0})
        late = contents.segments(folder)[0]
        data = late.read_bytes()
        ledger.append({"event": "run", "n": 1})
        ledger.append({"event": "run", "n": 2})
        atomic.write_bytes(late, data, replace=True)
        assert len(contents.read_contents(folder).runs) == 3
    assert len(contents.read_contents(folder).runs) == 3


def test_who_listed_a_version_that_is_gone_when_read_lists_again(folder, monkeypatch):
    ledger = Ledger.open(folder)
    ledger.append({"event": "run"})
    real, calls = segments.read_all, []

    def slow(places):
        calls.append(places)
        if len(calls) == 1:
            for _ in range(3):
                ledger.append({"event": "run"})
        return real(places)

    monkeypatch.setattr(segments, "read_all", slow)
    assert len(contents.read_contents(folder).runs) == 4
    assert len(calls) == 2
    ledger.close()


def test_a_batch_is_one_object(folder, s3_server):
    with Ledger.open(folder) as ledger:
        s3_server.requests.clear()
        with ledger.batch():
            for seed in range(20):
                assert ledger.cell(make_cell(seed=seed), [SUITE])
                assert not ledger.cell(make_cell(seed=seed), [SUITE])
            assert len(ledger.history.cells) == 20
        puts = [p for m, p in s3_server.requests if m == "PUT" and ".jsonl" in p]
    assert len(puts) == 1
    assert len(read_history(folder).cells) == 20


def test_a_folder_may_be_copied_from_a_disk_to_a_store_and_back(tmp_path, s3):
    local = small_run(tmp_path / "run")
    for path in (p for p in local.path.rglob("*") if p.is_file()):
        atomic.write_bytes(s3 / path.relative_to(local.path).as_posix(), path.read_bytes())
    remote = RunFolder.open(s3)
    with Ledger.open(remote) as ledger:
        ledger.append({"event": "run"})
    back = tmp_path / "back"
    for key in keys(remote):
        atomic.write_bytes(back / key, (s3 / key).read_bytes())
    with Ledger.open(RunFolder.open(back)) as ledger:
        ledger.append({"event": "run"})
    assert len(contents.read_contents(RunFolder.open(back)).runs) == 3
    wanted = {k: v.collect() for k, v in read.tables(local).items()}
    for place in (remote, RunFolder.open(back)):
        found = read.tables(place)
        assert all(found[name].collect().equals(frame) for name, frame in wanted.items())


# --- two drivers --------------------------------------------------------------------------


def test_only_one_of_many_becomes_the_driver(folder, monkeypatch):
    monkeypatch.setattr(sealed, "SETTLE_S", 2.0)
    won, lost, start = [], [], threading.Barrier(6)

    def try_it() -> None:
        start.wait()
        try:
            won.append(Ledger.open(folder))
        except StoreError as problem:
            lost.append(str(problem))

    threads = [threading.Thread(target=try_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 5
    assert all("is driven by process" in text for text in lost)
    won[0].append({"event": "run"})
    won[0].close()
    assert [key.count(".alive") for key in keys(folder, "LOCK")] == [1, 0]
    Ledger.open(folder).close()


def test_who_claims_looks_again_when_the_store_has_settled(folder, monkeypatch):
    rival = lock._json(lock.replace(lock.Holder.me(time.time()), host="elsewhere"))

    def sleep(seconds: float) -> None:
        assert seconds == sealed.SETTLE_S
        atomic.write_bytes(folder.lock_dir / f"000002-{'a' * 32}.json", rival, replace=True)

    monkeypatch.setattr(holders.time, "sleep", sleep)
    with pytest.raises(StoreError, match=r"is driven by process .* on elsewhere"):
        Ledger.open(folder)
    assert keys(folder, "LOCK") == [f"LOCK/000002-{'a' * 32}.json"]


def test_a_claim_that_comes_late_loses_whatever_its_name(folder):
    first = Ledger.open(folder)
    claim = first._lock._name
    time.sleep(1.1)  # The store dates in whole seconds.
    holder = json.dumps(lock.asdict(first._lock.holder)).encode()
    atomic.write_bytes(folder.lock_dir / f"{claim[:7]}{'0' * 32}.json", holder)
    first.append({"event": "run"})
    first.close()


def test_a_stolen_lock_stops_the_first_driver_before_its_next_line(folder):
    first = Ledger.open(folder)
    with Ledger.open(folder, steal=True) as second:
        second.append({"event": "run"})
        with pytest.raises(StoreError, match="has taken over"):
            first.append({"event": "run"})
        with pytest.raises(StoreError, match="has taken over"):
            first.heartbeat()
        first.close()
        assert lock.holder(folder, now=time.time()) is not None
    assert lock.holder(folder, now=time.time()) is None
    assert len(contents.read_contents(folder).runs) == 1


def test_two_drivers_that_both_write_count_each_suite_once(folder, monkeypatch):
    monkeypatch.setattr(lock.RunLock, "check", lambda self: None)
    drivers = [Ledger.open(folder), Ledger.open(folder, steal=True)]
    for n, driver in enumerate(drivers):
        finish(folder, driver, CELL, SUITE, acc_rows({"t": [n, n]}), attempt=f"a{n}")
    for driver in drivers:
        driver.close()
    assert read_history(folder).committed == {(CELL.id, SUITE.id): "a0"}
    assert read.tables(folder)["metrics"].collect()["value"].to_list() == [0.0]


def test_a_driver_elsewhere_is_succeeded_a_minute_after_its_last_sign_of_life(folder):
    ticks = [1000.0]
    first = Ledger.open(folder, now=lambda: ticks[0])
    elsewhere = lock.replace(first._lock.holder, host="elsewhere", heartbeat_s=1030.0)
    first._lock.holder = elsewhere
    first._lock._files.tell(first._lock._name, lock._json(elsewhere))
    ticks[0] = 1085.0
    with pytest.raises(StoreError, match=r"on elsewhere \(last sign of life 55 s ago\)"):
        Ledger.open(folder, now=lambda: ticks[0])
    ticks[0] = 1091.0
    with Ledger.open(folder, now=lambda: ticks[0]):
        pass


# --- artifacts ----------------------------------------------------------------------------


def fill(text: str):
    def write(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "scores").write_text(text)

    return write


def test_an_artifact_is_published_once_and_fetched_once_by_a_machine(folder, s3_server):
    store = Artifacts(folder)
    assert store.get({"k": 1}) is None
    mine = store.publish({"k": 1}, fill("first"))
    assert (mine / "sub" / "scores").read_text() == "first"
    s3_server.requests.clear()
    assert store.publish({"k": 1}, fill("second")) == mine
    assert not [p for m, p in s3_server.requests if m == "PUT" or "scores" in p]
    assert store.get({"k": 2}) is None


def test_of_two_that_compute_the_same_both_end_with_the_first_ones(folder, monkeypatch):
    monkeypatch.setattr(sealed, "SETTLE_S", 2.0)
    store, found = Artifacts(folder), []
    start = threading.Barrier(3)

    def compute(text: str) -> None:
        def write(place: Path) -> None:
            start.wait()
            fill(text)(place)

        found.append((store.publish({"k": 1}, write) / "sub" / "scores").read_text())

    threads = [threading.Thread(target=compute, args=(str(n),)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(keys(folder, "artifacts")) == 2  # The others' are gone again.


@pytest.mark.parametrize("name", ["key.json", "sub/scores"])
@pytest.mark.parametrize("damage", ["shorter", "gone"])
def test_a_damaged_artifact_is_named_with_what_to_do(folder, name, damage):
    store = Artifacts(folder)
    local = store.publish({"k": 1}, fill("scores"))
    key = next(k for k in keys(folder, "artifacts") if k.endswith(name))
    data = (folder.path / key).read_bytes()
    (folder.path / key).unlink()
    if damage == "shorter":
        atomic.write_bytes(folder.path / key, data[:-3])
    cache._remove(local)
    if (name, damage) == ("key.json", "gone"):
        assert store.get({"k": 1}) is None
        return
    with pytest.raises(StoreError, match=r"s3://.*: is damaged .*Delete this folder and run"):
        store.get({"k": 1})


def test_a_trainings_checkpoints_are_kept_two_deep_and_a_damaged_newest_is_passed_over(folder):
    artifacts = Artifacts(folder)
    series, other = artifacts.series({"x": 1}), artifacts.series({"x": 2})
    assert series.latest() is None
    other.save(5, fill("other"))
    for step in (9, 10, 11):
        series.save(step, fill(f"step {step}"))
    step, place = series.latest()
    assert (step, (place / "sub" / "scores").read_text()) == (11, "step 11")
    kept = {key.split("/")[1].split(".")[1] for key in keys(folder, "artifacts")}
    assert kept == {"5", "10", "11"}
    newest = next(k for k in keys(folder, "artifacts") if ".11/" in k and k.endswith("scores"))
    (folder.path / newest).unlink()
    cache._remove(place)
    assert series.latest()[0] == 10
    series.save(11, fill("step 11 again"))
    assert (series.latest()[1] / "sub" / "scores").read_text() == "step 11 again"
    series.clear()
    assert series.latest() is None
    assert other.latest()[0] == 5


def test_a_seal_cannot_lead_out_of_its_folder(folder):
    store = Artifacts(folder)
    local = store.publish({"k": 1}, fill("scores"))
    cache._remove(local)
    key = next(k for k in keys(folder, "artifacts") if k.endswith("key.json"))
    seal = json.loads((folder.path / key).read_bytes())
    seal["files"]["../../stolen"] = seal["files"]["sub/scores"]
    atomic.write_bytes(folder.path / key, json.dumps(seal).encode(), replace=True)
    with pytest.raises(StoreError, match="is no file here"):
        store.get({"k": 1})


# --- logs ---------------------------------------------------------------------------------


def test_a_log_is_there_from_the_start_and_grows(folder, monkeypatch):
    monkeypatch.setattr(logs, "UPLOAD_EVERY_S", 0.05)
    place = folder.log_file("cell", "a")
    begun = logs.Beginnings(folder, ask_every_s=0.0)
    assert not begun.has("cell", "a")
    with logs.writing(folder, folder.relative(place)) as stream:
        assert begun.has("cell", "a")
        os.write(stream.fileno(), b"from native code\n")
        print("from Python", file=stream)
        deadline = time.monotonic() + 10
        while b"Python" not in place.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert place.read_bytes() == b"from native code\nfrom Python\n"
        print("the end", file=stream)
    assert place.read_bytes().endswith(b"the end\n")


def test_a_store_is_asked_now_and_then_whether_an_attempt_has_begun(folder, s3_server):
    begun = logs.Beginnings(folder)
    s3_server.requests.clear()
    assert not any(begun.has("cell", "a") for _ in range(50))
    assert len(s3_server.requests) <= 2  # One question: is it an object, is it a folder?


# --- faults of the store ------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch) -> None:
    """Short pauses, and a client that does not ask again by itself, for six seconds."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    def file_system(root: str, _: str):
        once = AwsStandardS3RetryStrategy(max_attempts=1)
        options = {"allow_delayed_open": True, "retry_strategy": once}
        fs = S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], **options)
        return fs, root.removeprefix("s3://")

    monkeypatch.setattr(objects, "_file_system", file_system)
    monkeypatch.setattr(objects, "_PAUSE_S", 0.01)
    monkeypatch.setattr(objects, "_LONGEST_PAUSE_S", 0.05)
    objects.store.cache_clear()


FAULTS = [(503, "SlowDown"), (500, "InternalError"), (400, "RequestTimeout"), "reset", "lost"]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_what_passes_is_waited_for(s3, s3_server: Server, patient, fault):
    """Every third request fails, whatever it is; nothing is lost, nothing counted twice."""
    count = [0]

    def every_third(method: str, path: str):
        count[0] += 1
        return fault if count[0] % 3 == 0 else None

    s3_server.fault = every_third
    folder = new_run(s3)
    with Ledger.open(folder) as ledger:
        for seed in range(3):
            cell = make_cell(seed=seed)
            finish(folder, ledger, cell, SUITE, acc_rows({"t": [1, 0]}), attempt=f"a{seed}")
        fail(ledger, CELL, [make_suite("perplexity")], attempt="b")
    Artifacts(folder).publish({"k": 1}, fill("scores"))
    compact.compact(folder)
    assert read.tables(folder)["metrics"].collect().height == 3
    assert count[0] > 60
    s3_server.fault = lambda method, path: None
    assert len(contents.read_contents(folder).commits) == 3
    assert len(contents.read_contents(folder).failures) == 1


def test_a_store_that_has_gone_is_an_error_that_may_pass(folder, s3_server, patient, monkeypatch):
    monkeypatch.setattr(objects, "PATIENCE_S", 0.3)
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run"})
        s3_server.fault = lambda method, path: (503, "SlowDown")
        with pytest.raises(UnreachableError, match=r"does not answer .*AWS_ENDPOINT_URL"):
            ledger.append({"event": "run"})
        s3_server.fault = lambda method, path: (503, "SlowDown") if method == "PUT" else None
        with pytest.raises(UnreachableError):
            attempts.write_suite(
                folder,
                cell_id=CELL.id,
                attempt_id="a",
                suite=SUITE,
                result_rows=acc_rows({"t": [1]}),
                facts={},
            )
        s3_server.fault = lambda method, path: None
    assert len(contents.read_contents(folder).runs) == 1
    assert attempts.read_suite_marks(folder) == []


def test_the_sign_of_life_goes_on_after_a_fault(folder, s3_server, patient, monkeypatch):
    monkeypatch.setattr(objects, "PATIENCE_S", 0.05)
    with Ledger.open(folder, beat_every_s=0.01) as ledger:
        s3_server.fault = lambda method, path: (503, "SlowDown")
        time.sleep(0.5)
        s3_server.fault = lambda method, path: None
        before = ledger._lock.holder.heartbeat_s
        deadline = time.monotonic() + 10
        while ledger._lock.holder.heartbeat_s == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ledger._lock.holder.heartbeat_s > before
        ledger.append({"event": "run"})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, "InvalidAccessKeyId"), "access is denied. Set AWS_ACCESS_KEY_ID"),
        ((403, "SignatureDoesNotMatch"), "access is denied. Set AWS_ACCESS_KEY_ID"),
        ((403, "AccessDenied"), "access is denied. Set AWS_ACCESS_KEY_ID"),
        ((400, "ExpiredToken"), "access is denied. Set AWS_ACCESS_KEY_ID"),
        ((301, "PermanentRedirect"), "in another region. Set AWS_REGION"),
        ((400, "AuthorizationHeaderMalformed"), "in another region. Set AWS_REGION"),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_what_stays_is_said_at_once_in_one_sentence(s3, s3_server, answer, said):
    s3_server.fault = lambda method, path: None if method == "HEAD" else answer
    began = time.monotonic()
    with pytest.raises(StoreError, match=said) as caught:
        new_run(s3)
    assert not isinstance(caught.value, UnreachableError)
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)


def test_without_credentials_the_variables_are_named(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    objects.store.cache_clear()
    said = r"denied \(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY not set\)"
    with pytest.raises(StoreError, match=said):
        new_run(s3)


def test_a_bucket_that_is_not_there_is_named(s3):
    nowhere = Address("s3://bucket-of-nobody", "run")
    with pytest.raises(StoreError, match="no bucket 'bucket-of-nobody' at AWS_ENDPOINT_URL"):
        new_run(nowhere)
    with pytest.raises(StoreError, match="there is no such bucket"):
        RunFolder.open(nowhere)
    with pytest.raises(StoreError, match="there is no such run folder"):
        RunFolder.open(s3)
    atomic.write_bytes(s3 / "thesis.tex", b"x")
    with pytest.raises(StoreError, match=r"it has no run\.json"):
        RunFolder.open(s3)
    with pytest.raises(StoreError, match=r"holds 'thesis\.tex'"):
        new_run(s3)


def test_an_endpoint_that_is_not_there_is_said_within_seconds(s3, monkeypatch):
    monkeypatch.setattr(objects, "FIRST_PATIENCE_S", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    objects.store.cache_clear()
    with pytest.raises(UnreachableError, match=r"does not answer .*http://127\.0\.0\.1:9"):
        new_run(s3)


# --- damage -------------------------------------------------------------------------------


def test_a_committed_object_that_is_gone_or_changed_is_named(folder):
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, CELL, SUITE, acc_rows({"t": [1, 0]}), attempt="a")
    path = folder.table_file(CELL.id, "a", SUITE.id, "metrics")
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(StoreError, match=f"{path}: is gone"):
        read.tables(folder)
    atomic.write_bytes(path, data[:-9])
    with pytest.raises(StoreError, match=f"{path}: does not match the checksum"):
        read.tables(folder)


def test_a_local_copy_that_has_changed_is_fetched_again(folder):
    with Ledger.open(folder) as ledger:
        finish(folder, ledger, CELL, SUITE, acc_rows({"t": [1, 0]}), attempt="a")
    first = read.tables(folder)["metrics"].collect()
    for copy in (cache._folder() / "objects").iterdir():
        copy.write_bytes(b"damaged")
    assert read.tables(folder)["metrics"].collect().equals(first)


# --- a process that dies ------------------------------------------------------------------


def test_a_driver_killed_with_sigkill_is_succeeded_at_once(folder):
    code = (
        "import os, sys, signal; from ssmbench.store.folder import RunFolder;"
        "from ssmbench.store.ledger import Ledger;"
        "Ledger.open(RunFolder.at(sys.argv[1])).append({'event': 'run'});"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder.path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run"})
    assert len(contents.read_contents(folder).runs) == 2


def test_a_process_killed_in_the_middle_of_an_object_leaves_nothing(folder):
    code = (
        "import os, sys; from ssmbench.store.address import place; p = place(sys.argv[1]);"
        "s = p.store; stream = s._fs.open_output_stream(s._path(p.key));"
        "stream.write(b'x' * (12 << 20)); os._exit(9)"
    )
    target = folder.path / "attempts" / "half"
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == 9
    assert not target.exists()
