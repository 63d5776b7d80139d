"""Addresses of object stores: reading them, and the operations that they share with paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssmbench.errors import StoreError
from ssmbench.store import atomic, sealed
from ssmbench.store.address import Address, place, read_all, relative


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("runs/full", Path("runs/full")),
        ("/runs/full", Path("/runs/full")),
        ("file:///runs/a%20b", Path("/runs/a b")),
        ("odd:name", Path("odd:name")),
        ("C:", Path("C:")),
        ("s3://bucket/run", Address("s3://bucket", "run")),
        ("s3://bucket//runs/full/", Address("s3://bucket", "runs/full")),
        ("gs://bucket/run", Address("gs://bucket", "run")),
        (
            "s3://bucket/run?endpoint_override=host:9000&scheme=http",
            Address("s3://bucket", "run", "endpoint_override=host:9000&scheme=http"),
        ),
    ],
)
def test_what_a_user_writes_is_a_path_or_an_address(text, found):
    assert place(text) == found
    assert place(str(found)) == found
    assert place(found) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://host/run", "s3://"),
        ("s3:/bucket/run", "with two slashes"),
        ("s3:bucket/run", "with two slashes"),
        ("s3:///run", "with two slashes"),
        ("s3://bucket", "a folder in the bucket"),
        ("s3://bucket/../run", "a folder in the bucket"),
        ("s3://key:hush@bucket/run", "secret in the address"),
    ],
)
def test_an_address_that_cannot_be_meant_is_explained_without_its_secret(text, said):
    with pytest.raises(StoreError, match=said) as caught:
        place(text)
    assert "hush" not in str(caught.value)


def test_an_address_has_the_parts_of_a_path():
    run = Address("s3://bucket", "runs/full", "scheme=http")
    log = run / "logs" / "cell/a.log"
    assert str(log) == "s3://bucket/runs/full/logs/cell/a.log?scheme=http"
    assert (log.name, log.parent.name, run.parent.parent.name) == ("a.log", "cell", "bucket")
    assert log.with_name("b.log").key == "runs/full/logs/cell/b.log"
    assert relative(log, run) == "logs/cell/a.log"
    with pytest.raises(ValueError, match="does not lie in"):
        relative(log, Address("s3://other", "runs/full", "scheme=http"))


@pytest.fixture(params=["disk", "s3"])
def folder(request, tmp_path):
    """The same on a disk and in an object store."""
    return tmp_path / "run" if request.param == "disk" else request.getfixturevalue("s3")


def test_both_kinds_answer_alike(folder):
    assert not folder.exists()
    assert not folder.is_dir()
    atomic.write_bytes(folder / "a" / "x.json", b"1")
    atomic.write_bytes(folder / "a" / "b" / "y.json", b"2" * 1000)
    atomic.write_bytes(folder / "a" / "empty", b"")
    assert (folder / "a").is_dir()
    assert not (folder / "a").is_file()
    assert (folder / "a" / "x.json").is_file()
    assert not (folder / "a" / "x.json").is_dir()
    assert sorted(p.name for p in (folder / "a").iterdir()) == ["b", "empty", "x.json"]
    assert [p.name for p in folder.iterdir()] == ["a"]
    found = read_all([folder / "a" / n for n in ("x.json", "gone", "empty", "b/y.json")])
    assert found == [b"1", None, b"", b"2" * 1000]
    with pytest.raises(FileNotFoundError):
        (folder / "a" / "gone").read_bytes()
    (folder / "a" / "x.json").unlink()
    (folder / "a" / "x.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "a" / "x.json").unlink()
    assert not (folder / "a" / "x.json").exists()


def test_both_kinds_keep_what_is_there_unless_told_to_replace_it(folder):
    atomic.write_bytes(folder / "x", b"first")
    with pytest.raises(FileExistsError):
        atomic.write_bytes(folder / "x", b"second")
    assert (folder / "x").read_bytes() == b"first"
    atomic.write_bytes(folder / "x", b"third", replace=True)
    assert (folder / "x").read_bytes() == b"third"


def test_both_kinds_put_a_folder_whole_or_not_at_all(folder, monkeypatch):
    monkeypatch.setattr(sealed, "SETTLE_S", 1.1)  # The store dates in whole seconds.

    def fill(temporary: Path, text: bytes) -> None:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "weights").write_bytes(text)
        (temporary / "none").write_bytes(b"")
        seal = sealed.write(temporary, {"k": 1})
        atomic.write_synced(temporary / sealed.SEAL, seal)

    def half() -> None:
        with atomic.new_folder(folder / "K") as temporary:
            fill(temporary, b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert atomic.local_folder(folder / "K") is None
    for text in (b"first" * 1000, b"second"):
        with atomic.new_folder(folder / "K") as temporary:
            fill(temporary, text)
    found = atomic.local_folder(folder / "K")
    assert (found / "sub" / "weights").read_bytes() == b"first" * 1000
    assert (found / "none").read_bytes() == b""


def test_an_object_of_several_parts_arrives_whole(s3):
    content = bytes(range(256)) * (24 << 12)  # 24 MiB
    with atomic.new_folder(s3 / "K") as temporary:
        (temporary / "large").write_bytes(content)
        atomic.write_synced(temporary / "key.json", sealed.write(temporary, {}))
    assert (atomic.local_folder(s3 / "K") / "large").read_bytes() == content
