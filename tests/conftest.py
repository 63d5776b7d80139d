"""Shared fixtures: no network, the optional test material, small things that many tests use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of goldens and local data that developers have beside the checkout."""
    folder = Path(os.environ.get("SSMBENCH_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip("needs the developers' shared folder (set SSMBENCH_SHARED)")
    return folder
