"""lm-eval task objects with their documents, loaded once a process."""

from __future__ import annotations

import functools
import logging
import math
import tempfile
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import lm_eval.api.task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from ssmbench.errors import CommandError, DataError
from ssmbench.suites import _overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lm_eval.api.task import Task

KEPT_LOADS = 8


class Loaded(NamedTuple):
    """Tasks with their documents, as `lm_eval.evaluate` takes them."""

    tasks: dict[str, Task]
    groups: dict[str, Any]


class _Loads:
    """The tasks that this process has loaded, so that reused workers load them once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Loaded] = {}
        # Lives as long as the process: the documents are mapped from files in it.
        self.folder = tempfile.TemporaryDirectory(prefix="ssmbench-tasks-")

    def get(self, key: tuple[Any, ...], load: Callable[[], Loaded]) -> Loaded:
        found = self._kept.pop(key, None) or load()
        self._kept[key] = found
        while len(self._kept) > KEPT_LOADS:
            del self._kept[next(iter(self._kept))]
        return found


@functools.cache
def _loads() -> _Loads:
    return _Loads()


def load_tasks(
    tasks: Sequence[str],
    *,
    shots: int | None,
    data: Path | None,
    configs: Mapping[str, Mapping[str, Any]],
) -> Loaded:
    """Load tasks with their documents, or give those that this process loaded before."""
    _quieten()
    key = (tuple(tasks), shots, data and str(data.resolve()), repr(sorted(configs.items())))
    return _loads().get(key, lambda: _load(tasks, shots, data, configs))


def _load(
    tasks: Sequence[str],
    shots: int | None,
    data: Path | None,
    configs: Mapping[str, Mapping[str, Any]],
) -> Loaded:
    named = [t for t in tasks if t not in configs]
    if data is not None:
        _overlay.require_local(named)
    local = [t for t in named if t in _overlay.LOCAL_TASKS]
    root = Path(_loads().folder.name)
    folder = Path(tempfile.mkdtemp(dir=root))
    # None of these tasks states shots of its own, so that None is 0.
    _overlay.write_overlay(folder, local, data=data, shots=shots or 0)
    # The index of all of lm-eval's task files takes seconds; most runs do not need it.
    manager = TaskManager(include_path=str(folder), include_defaults=len(local) < len(named))
    loaded = Loaded({}, {})
    for name in tasks:
        config = _with_cache(configs[name], root / "cache") if name in configs else None
        found = _load_one(manager, name, config)
        loaded.tasks.update(found["tasks"])
        loaded.groups.update(found["groups"])
    for task in loaded.tasks.values():
        _set_shots(task, shots)
        _guard_aggregation(task)
    return loaded


def _with_cache(config: Mapping[str, Any], cache: Path) -> Mapping[str, Any]:
    """Let `datasets` convert a task's own local file where it goes away with the process."""
    if config.get("dataset_path") != "json":
        return config
    options = {"cache_dir": str(cache), **(config.get("dataset_kwargs") or {})}
    return {**config, "dataset_kwargs": options}


def _load_one(manager: TaskManager, name: str, config: Mapping[str, Any] | None) -> Any:
    """Load one task by name, or from its dictionary."""
    if config is None and name not in manager.task_index:
        near = get_close_matches(name, manager.all_tasks, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise CommandError(f"lm-eval has no task '{name}'.{hint}")
    try:
        return manager.load([name if config is None else {**config, "task": name}])
    except (OSError, ValueError) as why:
        path = _dataset_of(manager, name)
        raise DataError(
            f"{name}: its data set{f' {path}' if path else ''} could not be read "
            f"({type(why).__name__}: {why}). {_overlay.HOW_TO_BRING}"
        ) from why


def _dataset_of(manager: TaskManager, name: str) -> str | None:
    """Name the data set on the hub that a task asks for, if its file says it."""
    entry = manager.task_index.get(name)
    if entry is None or not entry.yaml_path:
        return None
    path = load_yaml(entry.yaml_path, resolve_func=False).get("dataset_path")
    return None if path is None else str(path)


def _set_shots(task: Task, shots: int | None) -> None:
    stated = task.get_config("num_fewshot")
    if stated is None or (shots is not None and stated != 0):
        task.set_config(key="num_fewshot", value=shots or 0)


def _guard_aggregation(task: Task) -> None:
    """Let a perplexity beyond the largest float be infinite: lm-eval's raises."""
    aggregation = task.aggregation()
    for metric, function in aggregation.items():
        aggregation[metric] = _guarded(function)


def _guarded(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(function)
    def aggregate(items: Any) -> Any:
        try:
            return function(items)
        except OverflowError:
            return math.inf

    return aggregate


def _quieten() -> None:
    """Silence lm-eval's and datasets' progress bars: the display is the caller's.

    Its warnings stay off too unless someone has set that logger's level.
    """
    lm_eval.api.task.tqdm = _without_bar
    datasets.disable_progress_bars()
    log = logging.getLogger("lm_eval")
    if log.level == logging.NOTSET:
        log.setLevel(logging.ERROR)


def _without_bar(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    return items
