"""lm-eval's own task files, read on local data: `--data DIR` (docs/local-data.md).

For each task one YAML file is written at run time. It includes the installed original by
its path and replaces nothing but where the documents come from, so prompts, choices,
metrics and document processing stay the original's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HOW_TO_BRING = (
    "Give a folder in the layout of docs/local-data.md by --data DIR; or run the same grid "
    "once where there is a network, with HF_HOME on a folder that this machine shares."
)


@dataclass(frozen=True)
class LocalTask:
    """How one lm-eval task finds its documents in a data folder.

    Attributes:
        original: the task's file under lm_eval/tasks.
        splits: split name to file under the data folder, one JSON object a line.
        fields: what every line must have.
    """

    original: str
    splits: Mapping[str, str]
    fields: tuple[str, ...]


def _arc(folder: str) -> Mapping[str, str]:
    return {split: f"arc/{folder}/{split}.jsonl" for split in ("train", "validation", "test")}


LOCAL_TASKS: Mapping[str, LocalTask] = {
    "lambada_openai": LocalTask(
        "lambada/lambada_openai.yaml", {"test": "lambada_openai/lambada_test.jsonl"}, ("text",)
    ),
    "hellaswag": LocalTask(
        "hellaswag/hellaswag.yaml",
        {"train": "hellaswag/train.jsonl", "validation": "hellaswag/validation.jsonl"},
        ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    ),
    "piqa": LocalTask(
        "piqa/piqa.yaml",
        {"train": "piqa/train.jsonl", "validation": "piqa/validation.jsonl"},
        ("goal", "sol1", "sol2", "label"),
    ),
    "arc_easy": LocalTask(
        "arc/arc_easy.yaml", _arc("ARC-Easy"), ("question", "choices", "answerKey")
    ),
    "arc_challenge": LocalTask(
        "arc/arc_challenge.yaml", _arc("ARC-Challenge"), ("question", "choices", "answerKey")
    ),
    "winogrande": LocalTask(
        "winogrande/default.yaml",
        {"train": "winogrande/train.jsonl", "validation": "winogrande/validation.jsonl"},
        ("sentence", "option1", "option2", "answer"),
    ),
    "wikitext": LocalTask(
        "wikitext/wikitext.yaml",
        {
            "test": "wikitext-2-raw/test.pages.jsonl",
            "validation": "wikitext-2-raw/validation.pages.jsonl",
        },
        ("page",),
    ),
}


def write_overlay(folder: Path, tasks: Iterable[str], *, data: Path | None, shots: int) -> None:
    """Write a task file for each task into `folder`, for a TaskManager to read.

    Args:
        folder: an existing, empty folder.
        tasks: names in `LOCAL_TASKS`.
        data: the local data; None leaves each task's own data set (the hub) in place.
        shots: examples in the prompt; with 0 the train splits are not read at all.

    Raises:
        DataError: the data folder lacks a file or a task, or a file is not as documented.
    """
    for name in tasks:
        config: dict[str, Any] = {"include": str(original(name)), "task": name}
        if data is not None:
            config |= _local(name, data, shots)
        # JSON is YAML, with no question of how a path must be quoted.
        (folder / f"{name}.yaml").write_text(json.dumps(config))


def scored_files(tasks: Iterable[str], data: Path | None) -> list[Path]:
    """Give the files of the local data whose documents these tasks score; of unknown ones none."""
    known = [LOCAL_TASKS[name].splits for name in tasks if name in LOCAL_TASKS]
    scored = [splits.get("test") or splits["validation"] for splits in known]
    return [] if data is None else [data / name for name in scored]


def original(name: str) -> Path:
    """Give the path of an installed lm-eval task file."""
    package = importlib.util.find_spec("lm_eval")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "tasks" / LOCAL_TASKS[name].original


def _local(name: str, data: Path, shots: int) -> dict[str, Any]:
    """Give the settings that point a task at its local files."""
    task = LOCAL_TASKS[name]
    wanted = {s: f for s, f in task.splits.items() if s != "train" or shots}
    files = {split: str(check_file(data, file, task.fields)) for split, file in wanted.items()}
    settings: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(converted_folder())},
    }
    # Without its train split a task draws examples elsewhere or not at all; it may not
    # go on naming a split that is not there.
    if "train" not in wanted:
        settings["training_split"] = None
    return settings


def converted_folder() -> Path:
    """Give where `datasets` puts its converted copies of local files, keyed by their path and date.

    HF_DATASETS_CACHE where it is set; else a folder of this machine and user, so that
    attempts on one machine share it and none needs a writable or lockable home.
    """
    stated = os.environ.get("HF_DATASETS_CACHE")
    if stated:
        return Path(stated)
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"ssmbench-datasets-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def check_file(data: Path, name: str, fields: Sequence[str]) -> Path:
    """Give the path of a data file after reading it through once.

    Raises:
        DataError: the folder or file is missing, a line is not a JSON object with the
            fields, or there is no line; the message names file and line.
    """
    if not data.is_dir():
        raise DataError(f"{data}: no such folder; --data expects one. {HOW_TO_BRING}")
    path = data / name
    if not path.is_file():
        raise DataError(
            f"{path}: this file is missing from the data folder. docs/local-data.md lists "
            "the files that each task needs."
        )
    number = 0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            _check_line(path, number, line, fields)
    if not number:
        raise DataError(f"{path}: the file is empty; one JSON object a line is expected.")
    return path.resolve()


def _check_line(path: Path, number: int, line: str, fields: Sequence[str]) -> None:
    try:
        found = json.loads(line)
    except ValueError as why:
        raise DataError(f"{path}:{number}: not JSON ({why}); one object a line.") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}:{number}: {type(found).__name__} found; a JSON object expected.")
    missing = [f for f in fields if f not in found]
    if missing:
        raise DataError(
            f"{path}:{number}: no {', '.join(missing)}; every line needs {', '.join(fields)}."
        )


def require_local(tasks: Iterable[str]) -> None:
    """Check that the documented layout covers the tasks.

    Raises:
        DataError: naming those that it does not cover.
    """
    unknown = sorted(set(tasks) - set(LOCAL_TASKS))
    if unknown:
        raise DataError(
            f"--data holds no {', '.join(unknown)}; its layout covers {', '.join(LOCAL_TASKS)}. "
            "Score the others without --data, from the hub."
        )
