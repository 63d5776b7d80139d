"""The latency suite: what it times, what it says of memory, limits and strangers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from evaluate_helpers import both, context_of, tiny_gpt_neox, tiny_mamba, tiny_mamba2
from graph_helpers import Graphs
from test_evaluate_suites import LATENCY_FIELDS

from ssmbench.models import decoding, token_flops
from ssmbench.models.description import Attention
from ssmbench.store.columns import LATENCY
from ssmbench.suites import (
    _latency_row,
    _latency_work,
    _memory,
    _peak,
    _strangers,
    _timing,
    latency,
)
from ssmbench.suites._gemms import Watched, replay
from ssmbench.suites._timing import Took

if TYPE_CHECKING:
    from ssmbench.models.forest import Forest

CPU = torch.device("cpu")
SHAPES = latency.Params(
    prefill=((1, 5), (2, 3)), decode=((2, 4),), decode_steps=2, repeats=3, warmup=0
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = {"mamba": tiny_mamba(), "mamba2": tiny_mamba2(), "gpt_neox": tiny_gpt_neox()}
    return {name: both(m, tmp_path_factory.mktemp(name))[1] for name, m in made.items()}


def measured(model: Any, folder: Path, params: latency.Params = SHAPES, **changes: Any) -> list:
    context = context_of(model, None, folder, **changes)
    return latency.run(context, params).latency


# --- turns and figures --------------------------------------------------------------------


def test_turns_alternate_and_the_warm_up_is_told_apart() -> None:
    order: list[str] = []
    works = [lambda: order.append("mine"), lambda: order.append("dense")]
    times = _timing.take_turns(works, CPU, warmup=1, repeats=2)
    assert order == ["mine", "dense", "dense", "mine", "mine", "dense"]
    assert [(len(t.untimed_s), len(t.timed)) for t in times] == [(1, 2), (1, 2)]


def test_percentiles_by_hand() -> None:
    found = _timing.percentiles([5, 1, 2, 4, 3])
    assert found == {
        "median_s": 3,
        "p10_s": pytest.approx(1.4),
        "p90_s": pytest.approx(4.6),
        "p99_s": None,
    }
    assert _timing.percentiles([1.0] * 99)["p99_s"] is None
    assert _timing.percentiles(list(range(101)))["p99_s"] == pytest.approx(99)


def ready(**changes: Any) -> _latency_row.Ready:
    usual = {
        "work": None,
        "first_call_s": 2.0,
        "needed": _memory.Needed(100, 0.5),
        "state_bytes": 8,
        "weights_bytes": 1000,
        "held_bytes": 0,
        "gemms": [],
    }
    return _latency_row.Ready(**{**usual, **changes})


def test_a_row_by_hand() -> None:
    times = _timing.Times((0.25,), tuple(Took(2.0 * s, 2.0 * s + 1) for s in (1, 2, 3)))
    row = _latency_row.own(ready(held_bytes=8), times, 2, 30, CPU)
    assert (row["median_s"], row["raw_s"], row["n"]) == (2, [1, 2, 3], 3)
    assert row["tokens_per_s"] == 15
    assert row["first_token_s"] == 2.5
    assert (row["first_call_s"], row["warmup_s"]) == (2, 2.75)
    assert row["peak_memory_bytes"] == 1108
    assert (row["timer"], row["wall_raw_s"]) == ("wall", None)
    on_gpu = _latency_row.own(ready(), times, 2, 30, torch.device("cuda"))
    assert (on_gpu["timer"], on_gpu["wall_raw_s"]) == ("cuda_events", [1.5, 2.5, 3.5])
    unknown = ready(needed=_memory.Needed(None, 0.5))
    assert _latency_row.own(unknown, times, 2, 30, CPU)["peak_memory_bytes"] is None


def test_a_gpus_time_is_its_events_and_the_clock_runs_until_the_result_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            told.append("event")

        def elapsed_time(self, _end: Any) -> float:
            return 250.0  # milliseconds

    def fetch() -> None:
        time.sleep(0.01)
        told.append("fetched")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: told.append("idle"))
    took = _timing.timed(lambda: SimpleNamespace(cpu=fetch), torch.device("cuda"))
    assert took.device_s == 0.25
    assert 0.01 <= took.wall_s < 0.25
    assert told == ["idle", "event", "event", "fetched", "idle"]


def test_every_shape_has_a_row_with_every_column(models: dict[str, Any], tmp_path: Path) -> None:
    rows = measured(models["mamba2"], tmp_path)
    shapes = [(r["phase"], r["batch"], r["length"]) for r in rows]
    assert shapes == [("prefill", 1, 5), ("prefill", 2, 3), ("decode", 2, 4)]
    assert {c.name for c in LATENCY} >= LATENCY_FIELDS
    for row in rows:
        assert row.keys() == LATENCY_FIELDS
        assert len(row["raw_s"]) == len(row["dense_raw_s"]) == len(row["floor_raw_s"]) == 3
        assert row["speedup"] == row["dense_median_s"] / row["median_s"]
        assert 0 < row["floor_s"] < row["median_s"]
        assert row["warmup_s"] > row["first_call_s"] > 0
        assert row["reason"] == "power_w, temperature_c: a processor does not tell"
    assert rows[0]["first_token_s"] == rows[0]["median_s"]
    assert rows[2]["first_token_s"] is None


def test_state_and_weights_are_those_of_the_model(models: dict[str, Any], tmp_path: Path) -> None:
    rows = measured(models["mamba2"], tmp_path)
    # Two layers of a tail (3, 96) and a state (4 heads · 16 · 16), float32.
    one = 2 * 4 * (3 * 96 + 4 * 16 * 16)
    assert [row["state_bytes"] for row in rows] == [one, 2 * one, 2 * one]
    weights = sum(p.numel() * 4 for p in models["mamba2"].parameters())
    assert all(row["weights_bytes"] == weights for row in rows)
    # A decoding step holds the state besides.
    assert rows[2]["peak_memory_bytes"] >= weights + 2 * one


# --- graphs -------------------------------------------------------------------------------


def test_decoding_on_a_processor_is_plain_and_says_so(
    models: dict[str, Any], tmp_path: Path
) -> None:
    rows = measured(models["mamba2"], tmp_path)
    assert [row["graph"] for row in rows] == [None, None, "plain: it runs on a processor"]
    assert [row["capture_s"] for row in rows] == [None] * 3


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Let models without attention be captured, by a stand-in."""

    def why_not(model: Any) -> str | None:
        is_hybrid = any(isinstance(s.mixer, Attention) for s in model.description.layers)
        return "the keys grow" if is_hybrid else None

    monkeypatch.setattr(decoding, "why_not", why_not)
    return Graphs(monkeypatch)


def test_both_models_and_the_floor_run_as_graphs(
    on_gpu: Graphs, models: dict[str, Any], tmp_path: Path
) -> None:
    *prompts, row = measured(models["mamba2"], tmp_path)
    assert [r["graph"] for r in prompts] == [None, None]
    assert row["graph"] == "captured"
    assert row["capture_s"] > 0
    assert 0 < row["floor_s"] < row["median_s"]
    # Two steps of each model and one floor in each of three repeats.
    assert on_gpu.told.count("begin") == 3
    assert on_gpu.told.count("replay") == 3 * (2 + 2 + 1)


def test_a_graph_says_what_plain_steps_say(
    on_gpu: Graphs, models: dict[str, Any], tmp_path: Path
) -> None:
    ids = torch.tensor([[1, 2, 3], [7, 8, 9]])
    with torch.inference_mode():
        plain = _latency_work.prepared("decode", models["mamba2"], ids, 5, graph=False)
        graph = _latency_work.prepared("decode", models["mamba2"], ids, 5, graph=True)
        assert torch.equal(graph.work(), plain.work())
    assert [g[:3] for g in graph.gemms] == [g[:3] for g in plain.gemms]
    assert graph.state_bytes == plain.state_bytes == graph.held_bytes


@pytest.mark.parametrize(
    ("mine", "dense", "graph"),
    [
        ("gpt_neox", "gpt_neox", "plain: the keys grow"),
        ("mamba2", "gpt_neox", "plain, as the dense model: the keys grow"),
        ("mamba2", "mamba2", "plain: graphs are off"),
    ],
)
def test_what_is_not_captured_runs_plainly_beside_its_like(
    mine: str, dense: str, graph: str, on_gpu: Graphs, models: dict[str, Any], tmp_path: Path
) -> None:
    params = SHAPES.model_copy(update={"prefill": (), "graphs": "off"})
    params = params if "off" in graph else params.model_copy(update={"graphs": "auto"})
    (row,) = measured(models[mine], tmp_path, params, dense=lambda: models[dense])
    assert row["graph"] == graph
    assert row["median_s"] > 0
    assert on_gpu.told == []


def test_a_capture_that_fails_is_told_and_both_run_plainly(
    on_gpu: Graphs, models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = models["mamba2"].hidden
    read = lambda *args, **options: (int(torch.ones(2).sum()), hidden(*args, **options))[1]  # noqa: E731
    monkeypatch.setattr(models["mamba2"], "hidden", read)
    *_, row = measured(models["mamba2"], tmp_path)
    assert row["graph"] == (
        "plain: it could not be captured: operation not permitted when stream is capturing"
    )
    assert row["capture_s"] is None
    assert row["median_s"] > 0
    assert row["dense_median_s"] > 0


# --- the floor ----------------------------------------------------------------------------


def products(model: Any, ids: torch.Tensor) -> list[tuple[int, tuple[int, int]]]:
    with torch.inference_mode(), Watched(model) as watched:
        _latency_work.prefill(model, ids)
    return [(g.rows, g.shape) for g in watched.gemms]


@pytest.mark.parametrize("name", ["mamba", "mamba2", "gpt_neox"])
def test_the_floor_is_every_projection_once_and_the_head_on_the_last_token(
    name: str, models: dict[str, Any]
) -> None:
    model = models[name]
    every = [m for m in model.layers.modules() if isinstance(m, torch.nn.Linear)]
    expected = [(6, tuple(m.weight.shape)) for m in every]
    expected.append((2, tuple(model.lm_head.weight.shape)))
    assert sorted(products(model, torch.ones(2, 3, dtype=torch.int64))) == sorted(expected)


def test_the_floor_of_mamba_2_by_hand(models: dict[str, Any]) -> None:
    in_proj, out_proj = (6, (2 * 64 + 2 * 16 + 4, 32)), (6, (32, 64))
    found = products(models["mamba2"], torch.ones(2, 3, dtype=torch.int64))
    assert found == [in_proj, out_proj, in_proj, out_proj, (2, (120, 32))]


def test_a_replay_does_the_same_products_with_the_same_weights(models: dict[str, Any]) -> None:
    model = models["mamba"]
    ids = torch.ones(2, 3, dtype=torch.int64)
    with torch.inference_mode():
        with Watched(model) as first:
            _latency_work.prefill(model, ids)
        work = replay(first.gemms, CPU)
        with Watched(model) as second:
            work()
    assert [g[:3] for g in second.gemms] == [g[:3] for g in first.gemms]
    pairs = zip(second.gemms, first.gemms, strict=True)
    assert all(a.weight.data_ptr() == b.weight.data_ptr() for a, b in pairs)


def test_a_copy_of_a_weight_is_not_held(models: dict[str, Any]) -> None:
    model = models["mamba2"]
    weight = model.lm_head.weight
    with torch.inference_mode(), Watched(model) as watched:
        torch.nn.functional.linear(torch.ones(2, 32).double(), weight.double())
    (gemm,) = watched.gemms
    assert gemm == (2, (120, 32), torch.float64, None)
    assert replay(watched.gemms, CPU)().dtype == torch.float64


def test_a_model_whose_products_are_not_seen_has_no_floor_and_says_why(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = lambda _self, func, _types, args=(), kwargs=None: func(*args, **(kwargs or {}))  # noqa: E731
    monkeypatch.setattr(Watched, "__torch_function__", unseen)
    for row in measured(models["mamba2"], tmp_path):
        assert row["median_s"] > 0
        assert (row["floor_s"], row["floor_raw_s"]) == (None, None)
        assert "floor_s: no product was seen" in row["reason"]


def test_a_floor_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no product"):
        replay([], CPU)


def test_the_floor_of_pruned_prompts_is_of_the_tokens_that_are_left() -> None:
    from test_simba_scoring import reduced

    model = reduced("mamba2")
    ids = torch.randint(0, 61, (1, 20), generator=torch.Generator().manual_seed(0))
    found = products(model, ids)
    flow = list(token_flops.flow(model.description, 20, model.reducer.drop))
    expected = [rows for step in flow for rows in (step.entering, step.staying)]
    assert [rows for rows, _ in found] == [*expected, 1]
    assert len(set(expected)) > 1


# --- memory -------------------------------------------------------------------------------


def without_memory(model: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, n: int) -> None:
    """Let the model fail on n tokens."""
    hidden = model.hidden

    def fail(forest: Forest, *args: Any, **options: Any) -> Any:
        if len(forest.tokens) == n:
            raise error
        return hidden(forest, *args, **options)

    monkeypatch.setattr(model, "hidden", fail)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_a_shape_without_memory_is_a_row_with_its_reason_and_the_others_go_on(
    error: Exception, models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_memory(models["mamba2"], monkeypatch, error, 5)
    first, second, third = measured(models["mamba2"], tmp_path)
    assert first == {
        "phase": "prefill",
        "batch": 1,
        "length": 5,
        **dict.fromkeys(("median_s", "dense_median_s", "speedup", "graph", "n_semi_structured")),
        "reason": "median_s, dense_median_s: out of memory",
    }
    assert second["median_s"] > 0
    assert third["median_s"] > 0


def test_where_only_the_dense_model_has_no_memory_the_other_is_timed(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = both(tiny_mamba2(), tmp_path)[1]
    without_memory(dense, monkeypatch, torch.OutOfMemoryError("full"), 5)
    first, second, _ = measured(models["mamba2"], tmp_path, dense=lambda: dense)
    assert first.keys() == LATENCY_FIELDS
    assert first["median_s"] > 0
    names = ("dense_median_s", "dense_raw_s", "speedup", "dense_peak_memory_bytes")
    assert [first[name] for name in names] == [None] * 4
    assert first["reason"].startswith("dense_median_s: out of memory; ")
    assert second["speedup"] > 0


def test_another_error_is_the_suites(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_memory(models["mamba2"], monkeypatch, RuntimeError("shapes differ"), 3 * 2)
    with pytest.raises(RuntimeError, match="shapes differ"):
        measured(models["mamba2"], tmp_path)


def test_what_would_not_fit_is_not_tried_on_a_processor(
    models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = _memory.needed

    def told(work: Any, device: torch.device) -> _memory.Needed:
        return needed(work, device)._replace(working_bytes=2**30)

    monkeypatch.setattr(_latency_work, "needed", told)
    monkeypatch.setattr(latency, "free_bytes", lambda _device: 3 * 2**30)
    shapes = ((1, 8), (1, 16), (1, 64), (3, 16), (1, 1000))
    params = latency.Params(prefill=shapes, decode=(), repeats=2, warmup=0)
    rows = measured(models["mamba2"], tmp_path, params)
    # 64 tokens are four times 16; 1000 are too many for 48 to speak for.
    assert [r["median_s"] is None for r in rows] == [False, False, True, False, False]
    assert rows[2]["reason"] == (
        "median_s: not tried: by what shorter prompts needed, it takes 4.0 GiB,"
        " and 3.0 GiB are free"
    )


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells memory")
def test_memory_is_what_the_process_grew() -> None:
    size = 64 * 2**20

    def work() -> None:
        torch.ones(size // 4)

    # The system counts pages in batches: a few hundred KiB may be missing. Once more: what was
    # freed does not hide it.
    for _ in range(2):
        assert 0.98 * size <= _memory.needed(work, CPU).working_bytes < 1.5 * size


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells memory")
def test_counting_a_shapes_memory_leaves_the_attempts_peak(
    models: dict[str, Any], tmp_path: Path
) -> None:
    _peak.begin()
    torch.ones(2**25)  # 128 MiB
    reached = _peak.host_bytes()
    measured(models["mamba2"], tmp_path)
    assert _peak.host_bytes() >= reached
    assert (_peak.status_bytes("VmHWM") or 0) < reached - 2**26


def test_free_memory_is_the_least_of_machine_and_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (
        ("m", "MemTotal: 9 kB\nMemAvailable: 3 kB\n"),
        ("limit", "5000"),
        ("u", "4000"),
        ("no", "max"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(_memory, "_MEMINFO", tmp_path / "m")
    limit, used, none = (tmp_path / n for n in ("limit", "u", "no"))
    monkeypatch.setattr(_memory, "_GROUPS", ((none, used),))
    assert _memory.free_bytes(CPU) == 3072
    monkeypatch.setattr(_memory, "_GROUPS", ((none, used), (limit, used)))
    assert _memory.free_bytes(CPU) == 1000
    assert _memory.free_bytes(torch.device("cuda")) is None


# --- strangers ----------------------------------------------------------------------------


class Machine:
    """A fake /proc/stat of two processors, and the two clocks, in seconds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file, self.wall, self.own = folder / "stat", 100.0, 5.0
        self.busy = [10.0, 20.0]
        monkeypatch.setattr(_strangers, "_STAT", self.file)
        monkeypatch.setattr(_strangers, "_allowed", lambda: frozenset({0, 1}))
        monkeypatch.setattr(time, "monotonic", lambda: self.wall)
        monkeypatch.setattr(time, "process_time", lambda: self.own)
        monkeypatch.setattr(time, "sleep", lambda s: self.go(s, own=0))
        self.go(0, own=0)

    def go(self, seconds: float, *, own: float, others: float = 0.0) -> None:
        self.wall, self.own = self.wall + seconds, self.own + own
        self.busy = [self.busy[0] + own, self.busy[1] + others]
        rate = os.sysconf("SC_CLK_TCK")
        lines = ["cpu 1 2 3 4"]
        for i, busy in enumerate([*self.busy, 1000 + self.wall]):
            user, idle = round(busy * rate) - 5, round(self.wall * rate)
            lines.append(f"cpu{i} {user} 1 1 {idle} {idle} 1 1 1 {user} 0")
        self.file.write_text("\n".join([*lines, "intr 5"]))


def test_the_time_of_others_is_what_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch)
    watch = _strangers.HostWatch()
    machine.go(10, own=10, others=9)  # before, which is not asked about
    watch.begin()
    machine.go(10, own=9.5, others=1)
    assert watch.end().publishable is True
    watch.begin()
    machine.go(10, own=9.5, others=6)
    found = watch.end()
    assert found.publishable is False
    assert found.disturbance == "others used 0.6 of 2 processors meanwhile"


def test_a_stretch_too_short_to_tell_is_told_from_what_went_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch)
    watch = _strangers.HostWatch()
    machine.go(4, own=4, others=3)
    watch.begin()
    machine.go(0.01, own=0.01)
    assert watch.end().disturbance == "others used 0.7 of 2 processors meanwhile"
    alone = _strangers.HostWatch()
    alone.begin()
    machine.go(0.01, own=0.01, others=0.01)  # One tick more is chance.
    before = machine.wall
    assert alone.end().publishable is True
    assert machine.wall > before  # It waited until it could tell.


def test_a_system_that_does_not_tell_leaves_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_strangers, "_STAT", tmp_path / "none")
    monkeypatch.setattr(_strangers, "_CPUINFO", tmp_path / "none")
    found = _strangers.HostWatch().end()
    assert (found.publishable, found.clock_mhz) == (None, None)
    assert found.unknown["publishable"] == "the system does not tell how busy its processors are"
    row = _strangers.told(found)
    assert {c.name for c in LATENCY} >= row.keys()


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux tells how busy it is")
def test_a_neighbour_is_seen(models: dict[str, Any], tmp_path: Path) -> None:
    code = "import sys\nprint('up', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as neighbour:
        assert neighbour.stdout is not None
        neighbour.stdout.readline()
        params = latency.Params(prefill=((1, 16),), decode=(), repeats=200)
        try:
            (row,) = measured(models["mamba2"], tmp_path, params)
        finally:
            neighbour.kill()
    assert row["publishable"] is False
    assert "others used" in row["disturbance"]
    assert row["median_s"] > 0
    assert row["p99_s"] >= row["p90_s"]


SMI = """#!/bin/sh
case "$*" in
  *--id=GPU-abc*) ;;
  *) exit 9 ;;
esac
case "$*" in
  *compute-apps*) printf '{apps}' ;;
  *utilization*) echo {busy} ;;
  *loop-ms*) while :; do echo "1980, 350.5, 41"; echo "1000, [N/A], 44"; sleep 0.05; done ;;
esac
"""


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that installs an nvidia-smi with these processes and utilisation."""
    properties = SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    monkeypatch.setattr(_strangers, "_SETTLE_S", 0)

    def install(apps: str, busy: str) -> _strangers.GpuWatch:
        path = tmp_path / "nvidia-smi"
        path.write_text(SMI.replace("{apps}", apps).replace("{busy}", busy))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return _strangers.GpuWatch(torch.device("cuda"))

    return install


def test_a_gpu_of_ones_own_tells_clock_and_power(gpu: Any) -> None:
    watch = gpu(f"{os.getpid()}\\n", "0")
    with watch:
        watch.begin()
        deadline = time.monotonic() + 20
        before = len(watch._samples)
        while len(watch._samples) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        found = watch.end()
    assert found.publishable is True
    assert found.power_w == 350.5
    assert 1000 <= found.clock_mhz <= 1980
    assert found.temperature_c == 44
    assert found.unknown == {}
    assert watch._process.returncode is not None


@pytest.mark.parametrize(
    ("apps", "busy", "disturbance"),
    [
        (f"{os.getpid()}\\n77\\n", "0", "1 other process(es) on the GPU (PID 77)"),
        ("77\\n88\\n", "3", "1 other process(es) on the GPU (PID 88)"),  # in a container
        ("77\\n", "0", None),
        ("", "60", "the GPU was 60 % busy before anything was timed"),
        ("", "0", None),
    ],
)
def test_who_else_is_on_a_gpu(gpu: Any, apps: str, busy: str, disturbance: str | None) -> None:
    found = gpu(apps, busy).end()
    assert found.disturbance == disturbance
    assert found.publishable is (disturbance is None)


def test_a_gpu_without_nvidia_smi_leaves_it_open(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with _strangers.GpuWatch(torch.device("cuda")) as watch:
        found = watch.end()
    assert found.publishable is None
    assert set(found.unknown.values()) == {"nvidia-smi is not there"}
    assert set(found.unknown) == {"clock_mhz", "power_w", "temperature_c", "publishable"}
