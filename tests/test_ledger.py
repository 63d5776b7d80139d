"""The ledger and its lock: what counts, counted once, by one driver."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from store_helpers import acc_rows, facts_of, fail, finish, make_cell, make_suite, new_run

from ssmbench.errors import StoreError
from ssmbench.plan.history import Failure
from ssmbench.store import atomic, attempts, lock, read
from ssmbench.store.contents import read_contents, segments
from ssmbench.store.ledger import Ledger, read_history
from ssmbench.store.lines import decode, encode

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.store.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "run")


CELL, SUITE = make_cell(), make_suite()


def write(folder: RunFolder, attempt: str, value: int = 1) -> attempts.SuiteMark:
    return attempts.write_suite(
        folder,
        cell_id=CELL.id,
        attempt_id=attempt,
        suite=SUITE,
        result_rows=acc_rows({"t": [value, value]}),
        facts=facts_of(CELL),
        seconds=2.5,
    )


# --- what counts --------------------------------------------------------------------------


def test_the_first_commit_counts_and_a_late_attempt_does_not(folder):
    with Ledger.open(folder) as ledger:
        ledger.cell(CELL, [SUITE])
        assert ledger.commit(write(folder, "early", value=1))
        assert not ledger.commit(write(folder, "late", value=0))
    assert read_history(folder).committed == {(CELL.id, SUITE.id): "early"}
    assert read.tables(folder)["metrics"].collect()["value"].to_list() == [1.0]


def test_of_two_drivers_that_both_committed_the_earlier_segment_counts(folder):
    with Ledger.open(folder) as ledger:
        ledger.cell(CELL, [SUITE])
        ledger.commit(write(folder, "a"))
    first = segments(folder)[0]
    write(folder, "b", value=0)
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    lines[-1]["attempt"] = "b"
    second = folder.ledger_dir / "000002-other.jsonl"
    second.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_history(folder).committed == {(CELL.id, SUITE.id): "a"}
    assert read.tables(folder)["metrics"].collect()["value"].to_list() == [1.0]


def test_the_history_of_several_starts_is_merged_in_order(folder):
    other = make_suite("perplexity")
    with Ledger.open(folder) as ledger:
        ledger.cell(CELL, [SUITE])
        ledger.commit(write(folder, "a"))
    with Ledger.open(folder) as ledger:
        ledger.cell(CELL, [SUITE, other])
        fail(ledger, CELL, [other], attempt="b", log="logs/b.log")
        kept = ledger.history
    history = read_history(folder)
    assert history == kept
    assert [p.name[:6] for p in segments(folder)] == ["000001", "000002"]
    assert history.cells == {CELL.id: json.loads(json.dumps(CELL.to_json()))}
    assert history.wanted == {CELL.id: (SUITE.id, other.id)}
    assert history.seconds == {(CELL.id, SUITE.id): 2.5}
    failure = Failure("gpu_oom", "CUDA out of memory", "logs/b.log")
    assert history.failed == {(CELL.id, other.id): failure}
    assert history.attempts == {CELL.id: 2}


def test_a_failure_counts_when_it_is_final_and_until_a_commit(folder):
    key = (CELL.id, SUITE.id)
    with Ledger.open(folder) as ledger:
        ledger.cell(CELL, [SUITE])
        fail(ledger, CELL, [SUITE], final=False)
        assert key not in read_history(folder).failed
        fail(ledger, CELL, [SUITE])
        assert key in read_history(folder).failed
        ledger.commit(write(folder, "a"))
        assert key not in read_history(folder).failed
        fail(ledger, CELL, [SUITE])
        assert key not in read_history(folder).failed


def test_saying_the_same_twice_writes_once(folder):
    with Ledger.open(folder) as ledger:
        assert ledger.cell(CELL, [SUITE])
        assert not ledger.cell(CELL, [SUITE])
        assert ledger.cell(CELL, [])
    with Ledger.open(folder) as ledger:
        assert not ledger.cell(CELL, [])
    assert len(segments(folder)) == 1


def test_a_commit_of_files_that_are_not_whole_is_refused(folder):
    mark = write(folder, "a")
    folder.table_file(CELL.id, "a", SUITE.id, "samples").unlink()
    with Ledger.open(folder) as ledger:
        ledger.cell(CELL, [SUITE])
        with pytest.raises(StoreError, match="is missing, but"):
            ledger.commit(mark)
    assert read_history(folder).committed == {}


def test_whole_suites_that_no_commit_names_are_adopted_once(folder):
    with Ledger.open(folder) as ledger:
        ledger.cell(CELL, [SUITE])
        write(folder, "a")
        write(folder, "b", value=0)
    stranger = make_cell(seed=9)
    attempts.write_suite(
        folder,
        cell_id=stranger.id,
        attempt_id="c",
        suite=SUITE,
        result_rows=acc_rows({"t": [1]}),
        facts={},
    )
    with Ledger.open(folder) as ledger:
        assert [m.attempt_id for m in ledger.adopt()] == ["a"]
        assert ledger.adopt() == []
    assert read_history(folder).committed == {(CELL.id, SUITE.id): "a"}


# --- damage -------------------------------------------------------------------------------


def filled(folder: RunFolder) -> Path:
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run"})
        finish(folder, ledger, CELL, SUITE, acc_rows({"t": [1, 0]}), attempt="a")
    return segments(folder)[0]


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_torn_last_line_is_ignored_and_its_suite_adopted(folder, cut):
    path = filled(folder)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_history(folder).committed == {}
    with Ledger.open(folder) as ledger:
        assert len(ledger.adopt()) == 1
    assert read_history(folder).committed == {(CELL.id, SUITE.id): "a"}
    assert read.tables(folder)["metrics"].collect().height == 1


def test_a_last_line_of_nothing_after_a_power_cut_is_ignored(folder, caplog):
    path = filled(folder)
    path.write_bytes(path.read_bytes() + b"\0" * 100 + b"\n")
    assert len(read_history(folder).committed) == 1
    assert "the last line is damaged" in caplog.text


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"event": "commit"}', b"\0\0"])
def test_a_damaged_line_in_the_middle_names_file_and_line(folder, line):
    path = filled(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], line + b"\n", *lines[1:]]))
    with pytest.raises(StoreError, match=rf"{path.name}:2: "):
        read_history(folder)
    with pytest.raises(StoreError, match="damaged"):
        Ledger.open(folder)
    assert lock.holder(folder, now=time.time()) is None


def test_a_changed_digit_is_noticed(folder):
    path = filled(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    changed = lines[1].replace(b'"seed": 0', b'"seed": 1')
    assert changed != lines[1]
    path.write_bytes(b"".join([lines[0], changed, *lines[2:]]))
    with pytest.raises(StoreError, match=rf"{path.name}:2: does not match its checksum"):
        read_history(folder)


def test_lines_of_a_version_without_checksums_are_read(folder):
    path = filled(folder)
    found = read_history(folder)
    path.write_text("".join(json.dumps(decode(x)) + "\n" for x in path.read_bytes().splitlines()))
    assert b"crc32" not in path.read_bytes()
    assert read_history(folder) == found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"\xff{}", "is not JSON"),
        (b"[1]", "is not an object"),
        (b'{"a": 1, "crc32": "00000000"}', "does not match its checksum"),
        (b'{"crc32": 7, "a": 1}', "does not match its checksum"),
    ],
    ids=range(7),
)
def test_a_line_that_was_not_written_so_is_refused(line, said):
    with pytest.raises(ValueError, match=said):
        decode(line)
    written = encode({"a": 1, "b": ["ä", None]})
    assert decode(written) == {"a": 1, "b": ["ä", None]}
    with pytest.raises(ValueError, match="checksum"):
        decode(written.replace(b"1", b"2", 1))


def test_events_of_another_version_are_passed_over(folder):
    path = filled(folder)
    path.write_bytes(b'{"event": "moved", "to": "mars"}\n' + path.read_bytes())
    assert len(read_history(folder).committed) == 1


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_the_ledger_as_it_was_and_usable(folder, monkeypatch, call):
    real = getattr(os, call)

    def full(descriptor, *data):
        if call == "write":
            real(descriptor, bytes(data[0])[:20])
        raise OSError(28, "No space left on device")

    with Ledger.open(folder) as ledger:
        ledger.cell(CELL, [SUITE])
        mark = write(folder, "a")
        before = segments(folder)[0].read_bytes()
        monkeypatch.setattr(os, call, full)
        with pytest.raises(StoreError, match="No space left on device"):
            ledger.commit(mark)
        monkeypatch.undo()
        assert segments(folder)[0].read_bytes() == before
        assert ledger.commit(mark)
    assert len(read_history(folder).committed) == 1


def test_a_batch_is_one_write_and_counts_at_once(folder, monkeypatch):
    synced, real = [], os.fsync
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run"})
        monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(1), real(descriptor)))
        with ledger.batch():
            for seed in range(5):
                assert ledger.cell(make_cell(seed=seed), [SUITE])
                assert not ledger.cell(make_cell(seed=seed), [SUITE])
            assert len(ledger.history.cells) == 5
            assert read_history(folder).cells == {}
        assert len(synced) == 1
    assert len(read_history(folder).cells) == 5


def test_a_batch_that_ends_with_an_error_is_written(folder):
    def broken(ledger: Ledger) -> None:
        with ledger.batch():
            ledger.cell(CELL, [SUITE])
            raise KeyboardInterrupt

    with Ledger.open(folder) as ledger:
        with pytest.raises(KeyboardInterrupt):
            broken(ledger)
        assert list(read_history(folder).cells) == [CELL.id]
        ledger.append({"event": "run"})


def test_after_a_batch_that_could_not_be_written_nothing_more_is(folder, monkeypatch):
    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run"})
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space left on device"), ledger.batch():
            ledger.cell(CELL, [SUITE])
        monkeypatch.undo()
        with pytest.raises(StoreError, match="could not be written before"):
            ledger.append({"event": "run"})
    assert len(read_contents(folder).runs) == 1
    with Ledger.open(folder) as ledger:
        assert ledger.cell(CELL, [SUITE])


def test_a_record_that_lacks_a_field_is_a_bug(folder):
    with Ledger.open(folder) as ledger, pytest.raises(ValueError, match="lacks cell, id"):
        ledger.append({"event": "cell"})


# --- the lock -----------------------------------------------------------------------------


def test_a_second_driver_is_told_who_is_at_work(folder):
    said = f"is driven by process {os.getpid()} on "
    with Ledger.open(folder), pytest.raises(StoreError, match=said):
        Ledger.open(folder)
    Ledger.open(folder).close()


def test_a_stolen_lock_stops_the_first_driver_before_its_next_line(folder):
    first = Ledger.open(folder)
    with Ledger.open(folder, steal=True) as second:
        second.cell(CELL, [SUITE])
        with pytest.raises(StoreError, match="has taken over"):
            first.append({"event": "run"})
        with pytest.raises(StoreError, match="has taken over"):
            first.heartbeat()
        first.close()
        assert lock.holder(folder, now=time.time()) is not None
    assert len(segments(folder)) == 1


def holder_file(folder: RunFolder, *, age_s: float = 0, **changes) -> None:
    me = json.loads(lock._json(lock.Holder.me(time.time() - age_s)))
    folder.lock_dir.mkdir(exist_ok=True)
    (folder.lock_dir / "000007.json").write_text(json.dumps(me | changes))


@pytest.mark.parametrize(
    ("changes", "respected"),
    [
        ({}, True),
        ({"heartbeat_s": 0.0}, True),  # This host knows that its process lives: it slept.
        ({"process": "1"}, False),  # Another process has the pid now.
        ({"pid": 2**22 + 1}, False),
        ({"machine": "rebooted", "heartbeat_s": 0.0}, False),
        ({"host": "elsewhere"}, True),
        ({"host": "elsewhere", "age_s": 40}, True),
        ({"host": "elsewhere", "age_s": 3600}, False),
        ({"host": "elsewhere", "age_s": -3600}, True),
        ({"host": "elsewhere", "released": True}, False),
    ],
)
def test_a_holder_is_respected_while_it_shows_life(folder, changes, respected):
    holder_file(folder, **changes)
    if respected:
        with pytest.raises(StoreError, match="is driven by"):
            Ledger.open(folder)
        Ledger.open(folder, steal=True).close()
    else:
        Ledger.open(folder).close()
    assert [p.name for p in folder.lock_dir.iterdir()][-1:] == ["000008.json"]


def test_a_damaged_lock_file_is_nobodys(folder):
    folder.lock_dir.mkdir()
    (folder.lock_dir / "000003.json").write_text("{")
    Ledger.open(folder).close()


def test_only_one_of_many_succeeds_a_dead_driver(folder):
    holder_file(folder, pid=2**22 + 1)
    won, start = [], threading.Barrier(12)

    def try_it() -> None:
        start.wait()
        with contextlib.suppress(StoreError):
            won.append(Ledger.open(folder))

    threads = [threading.Thread(target=try_it) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].close()


def test_a_thread_gives_the_sign_of_life(folder):
    ticks = iter(range(10**9))
    beaten = threading.Event()

    def now() -> float:
        tick = next(ticks)
        if tick > 8:
            beaten.set()
        return float(tick)

    with Ledger.open(folder, now=now, beat_every_s=0.001):
        assert beaten.wait(10)
    shown = json.loads((folder.lock_dir / "000001.json").read_text())
    assert shown["heartbeat_s"] > 2
    assert shown["released"]


def test_a_driver_killed_with_sigkill_is_succeeded_at_once(folder):
    code = (
        "import os, sys, signal; from ssmbench.store.folder import RunFolder;"
        "from ssmbench.store.ledger import Ledger; from pathlib import Path;"
        "Ledger.open(RunFolder(Path(sys.argv[1]))).append({'event': 'run'});"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder.path)], check=False)
    with Ledger.open(folder) as ledger:
        ledger.append({"event": "run"})
    assert len(read_contents(folder).runs) == 2


def test_a_full_disk_at_the_start_is_one_sentence(tmp_path, monkeypatch):
    folder = new_run(tmp_path / "run")

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "write_bytes", full)
    with pytest.raises(StoreError, match=r"LOCK: cannot be written \(No space left"):
        Ledger.open(folder)
