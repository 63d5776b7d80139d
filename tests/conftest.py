"""Shared fixtures: no network, the optional test material, small things that many tests use."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from s3_server import Server

    from ssmbench.store.address import Address

for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Settled when triton is first imported, which transformers does: its kernels run on the CPU here.
os.environ.setdefault("TRITON_INTERPRET", "1")
# A script that starts the tests in the background lets them, and all their children, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of goldens and local data that developers have beside the checkout."""
    folder = Path(os.environ.get("SSMBENCH_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip("needs the developers' shared folder (set SSMBENCH_SHARED)")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """A real S3-compatible server on loopback; see tests/s3_server.py."""
    import s3_server

    server = s3_server.Server()
    yield server
    server.close()


@pytest.fixture
def s3(
    s3_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Address]:
    """The address of an empty folder in a new bucket, with the environment that finds it."""
    from s3_server import CREDENTIALS

    from ssmbench.store import cache, objects, sealed
    from ssmbench.store.address import Address

    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_server.url}.items():
        monkeypatch.setenv(name, value)
    temporary = tmp_path_factory.mktemp("tmp")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    # Of one process at a time nothing has to settle; who tests two sets it back.
    monkeypatch.setattr(sealed, "SETTLE_S", 0.0)
    objects.store.cache_clear()
    cache._folder.cache_clear()
    yield Address(f"s3://{s3_server.new_bucket()}", "runs/first")
    s3_server.fault = lambda method, path: None
    objects.store.cache_clear()
    cache._folder.cache_clear()
