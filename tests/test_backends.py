"""The switch: which backend computes what, why another does not, and what rows say of it."""

from __future__ import annotations

import os
import tempfile
import textwrap
import time

import pytest
import torch

from ssmbench.errors import CANNOT_RUN, PrerequisiteError, UnknownName
from ssmbench.execute import policy, prepare
from ssmbench.grid.resources import ResourcesEntry
from ssmbench.grid.schema import Grid
from ssmbench.kernels import backends, dispatch, naive, on_mamba_ssm, probing

SSD, SCAN, CONV = "ssd", "selective_scan", "causal_conv"
SCORES = ("selective_scan_influence", "ssd_influence")
RIGHT = dict.fromkeys(backends.OPERATIONS)


@pytest.fixture(autouse=True)
def as_it_was():
    with backends.using("torch"):
        yield


@pytest.fixture
def machine(monkeypatch):
    """Say what each backend can do on a GPU, and see what is asked of it."""
    asked = []

    def answer(**able):
        def problems(backend, operations, device, dtype):
            asked.append((backend, device, dtype))
            return {op: able[backend].get(op) for op in operations}

        monkeypatch.setattr(probing, "problems", problems)
        return asked

    return answer


def all_of(backend, reason):
    return dict.fromkeys(backends.OFFERS[backend], reason)


def test_a_processor_has_the_torch_forms_and_asks_nobody(monkeypatch):
    monkeypatch.setattr(probing, "problems", lambda *_: pytest.fail("asked"))
    choice = backends.use("auto", "cpu")
    assert (choice.name, choice.providers) == ("auto", {})
    assert backends.current() is choice
    assert backends.provider(SSD, "cpu", gradient=False) is None


def test_auto_takes_for_each_operation_the_first_that_computes_it(machine):
    asked = machine(mamba_ssm={}, triton={})
    choice = backends.use("auto", "cuda", "bfloat16")
    assert choice.providers == {
        SSD: "mamba_ssm",
        SCAN: "triton",
        CONV: "mamba_ssm",
        **dict.fromkeys(("gate", "gated_norm", *SCORES), "triton"),
    }
    assert asked == [("mamba_ssm", "cuda", "bfloat16"), ("triton", "cuda", "bfloat16")]


def test_auto_passes_over_what_does_not_compute_here(machine):
    machine(
        mamba_ssm={SSD: "is wrong", CONV: "not there"}, triton={SCAN: "died", SCORES[0]: "hung"}
    )
    choice = backends.use("auto", "cuda")
    assert choice.providers == {
        SSD: "triton",
        SCAN: "mamba_ssm",
        CONV: "triton",
        **dict.fromkeys(("gate", "gated_norm", SCORES[1]), "triton"),
    }
    assert [found.reasons for found in choice.found] == [
        ("is wrong", "not there"),
        ("died", "hung"),
        (),
    ]
    assert backends.provider(SCORES[0], "cuda", gradient=False) is None


def test_a_named_backend_that_computes_nothing_is_an_error_of_the_user(machine):
    machine(mamba_ssm=all_of("mamba_ssm", "No module named 'mamba_ssm'"))
    with pytest.raises(PrerequisiteError) as caught:
        backends.use("mamba_ssm", "cuda")
    assert str(caught.value) == (
        "backend 'mamba_ssm' computes nothing on this machine: No module named 'mamba_ssm'."
        " See docs/gpu.md, or choose backend: auto."
    )
    assert caught.value.exit_code == CANNOT_RUN
    assert policy.classify(caught.value) == "user"
    assert backends.current().name == "torch"


def test_a_named_backend_never_lets_torch_do_what_it_should(machine):
    machine(mamba_ssm={SCAN: "selective_scan_cuda is missing", CONV: "not installed"})
    backends.use("mamba_ssm", "cuda")
    name, _ = backends.provider(SSD, "cuda", gradient=False)
    assert name == "mamba_ssm"
    with pytest.raises(
        PrerequisiteError, match="does not compute selective_scan on this machine: "
    ):
        backends.provider(SCAN, "cuda", gradient=False)
    # The convolution is another package's, and the scores nobody's who was named.
    assert backends.provider(CONV, "cuda", gradient=False) is None
    assert backends.provider(SCORES[0], "cuda", gradient=False) is None


@pytest.mark.parametrize("name", ["mamba_ssm", "triton"])
def test_a_named_backend_on_a_processor_says_that_it_needs_a_gpu(name, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(PrerequisiteError, match="on this machine: it needs a GPU"):
        backends.use(name, "cpu")


def test_a_backend_that_does_not_exist():
    with pytest.raises(UnknownName, match=r"no backend is called 'tritn'\. Did you mean 'triton'"):
        backends.use("tritn", "cuda")


def test_torch_asks_nobody_on_a_gpu(monkeypatch):
    monkeypatch.setattr(probing, "problems", lambda *_: pytest.fail("asked"))
    assert backends.use("torch", "cuda").providers == {}


def test_a_gradient_is_left_to_those_that_have_one(machine):
    machine(mamba_ssm={}, triton={})
    with backends.using("auto", "cuda"):
        assert backends.provider(SSD, "cuda", gradient=True)[0] == "mamba_ssm"
        assert backends.provider(CONV, "cuda", gradient=True)[0] == "mamba_ssm"
        assert backends.provider(SCAN, "cuda", gradient=True)[0] == "triton"
        assert backends.provider(SCORES[0], "cuda", gradient=True) is None
    with backends.using("triton", "cuda"):
        assert backends.provider(SCAN, "cuda", gradient=True)[0] == "triton"
        assert backends.provider(SSD, "cuda", gradient=True) is None
        assert backends.provider(SSD, "cuda", gradient=False)[0] == "triton"


def test_a_backward_pass_is_judged_apart(machine):
    machine(mamba_ssm={}, triton={f"{SCAN} gradient": "is wrong"})
    with backends.using("auto", "cuda"):
        assert backends.provider(SCAN, "cuda", gradient=False)[0] == "triton"
        assert backends.provider(SCAN, "cuda", gradient=True) is None
        assert backends.provider(CONV, "cuda", gradient=True)[0] == "mamba_ssm"
    with backends.using("triton", "cuda"):
        assert backends.provider(SCAN, "cuda", gradient=False)[0] == "triton"
        with pytest.raises(PrerequisiteError, match="not compute selective_scan gradient on this"):
            backends.provider(SCAN, "cuda", gradient=True)


def test_a_backend_with_nothing_but_a_backward_pass_computes_nothing(machine):
    machine(triton=dict.fromkeys(backends.OPERATIONS, "is wrong"))
    with pytest.raises(PrerequisiteError, match="computes nothing on this machine: is wrong"):
        backends.use("triton", "cuda")


def test_tensors_elsewhere_are_computed_by_the_torch_forms(machine):
    """FLOPs are counted on the meta device, and statistics may be on the CPU."""
    machine(mamba_ssm={}, triton={})
    with backends.using("auto", "cuda"):
        assert backends.provider(SSD, "meta", gradient=False) is None
        assert backends.provider(SSD, "cpu", gradient=False) is None


def test_what_was_in_use_comes_back_after_an_error():
    before = backends.use("torch", "cuda")
    with pytest.raises(RuntimeError), backends.using("torch", "cpu"):
        raise RuntimeError
    assert backends.current() is before


def mamba2(length=3, **more):
    x, step, one = (
        torch.randn(1, length, 2, 4),
        torch.rand(1, length, 2),
        torch.randn(1, length, 1, 3),
    )
    rates = -torch.rand(2)
    return {
        "x": x,
        "log_decay": step * rates,
        "in_weight": step,
        "B": one,
        "C": one,
        "rates": rates,
    } | more


@pytest.fixture
def here(monkeypatch):
    """A backend on this processor, whose functions are stand-ins."""

    def provide(**functions):
        choice = backends.Choice("auto", "cpu", {op: who for op, (who, _) in functions.items()})
        monkeypatch.setattr(backends, "_current", choice)
        monkeypatch.setattr(backends, "function", lambda _, operation: functions[operation][1])

    return provide


def test_an_operation_goes_to_its_backend_with_all_that_it_may_use(here):
    seen = {}

    def ssd(*args, **kwargs):
        seen.update(kwargs)
        return "y", "state"

    here(ssd=("mamba_ssm", ssd))
    inputs = mamba2()
    with backends.recording() as record:
        assert dispatch.ssd(**inputs) == ("y", "state")
    assert seen["rates"] is inputs["rates"]
    assert record.text == "mamba_ssm"
    # Our own kernels know no rates: the decay says all.
    here(ssd=("triton", lambda *args, D, state: ("y", "state")))
    assert dispatch.ssd(**inputs) == ("y", "state")


def test_inputs_that_a_backend_does_not_take_are_computed_by_torch_and_recorded_so(here):
    here(ssd=("triton", lambda x, *_, **__: ("y", "state") if x.shape[1] == 1 else None))
    inputs = mamba2()
    with backends.recording() as record:
        y, _ = dispatch.ssd(**inputs)
    del inputs["rates"]
    torch.testing.assert_close(y, naive.ssd(**inputs)[0])
    assert record.text == "torch"
    with backends.recording() as record:
        dispatch.ssd(**mamba2())
        dispatch.ssd(**mamba2(1))
        dispatch.causal_conv(torch.randn(1, 3, 2), torch.randn(2, 4), None)
    assert record.text == "ssd: torch+triton, causal_conv: torch"


def test_a_weight_that_learns_is_a_gradient_that_is_asked_for(here):
    here(causal_conv=("triton", lambda *_: pytest.fail("has no backward pass")))
    x, weight = torch.randn(1, 3, 2), torch.randn(2, 4, requires_grad=True)
    dispatch.causal_conv(x, weight, None).sum().backward()
    assert weight.grad is not None
    here(causal_conv=("triton", lambda *_: "y"))
    with torch.no_grad():
        assert dispatch.causal_conv(x, weight, None) == "y"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_torch_forms_compute_stored_halves_in_float32(dtype):
    inputs = mamba2()
    wide = {k: v.to(dtype).float() if k in ("x", "B", "C") else v for k, v in inputs.items()}
    narrow = {k: v.to(dtype) if k in ("x", "B", "C") else v for k, v in inputs.items()}
    for a, b in zip(dispatch.ssd(**narrow), dispatch.ssd(**wide), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_records_stand_within_one_another():
    with backends.recording() as outer:
        backends.note(SSD, "torch")
        with backends.recording() as inner:
            backends.note(SSD, "triton")
        backends.note(CONV, "torch")
    assert inner.text == "triton"
    assert outer.text == "ssd: torch+triton, causal_conv: torch"
    with backends.recording() as nothing:
        pass
    assert nothing.text is None


@pytest.mark.parametrize(
    ("line", "name"),
    [("", "H100"), ("backend: auto", "H100"), ("backend: torch", "H100, backend torch")],
)
def test_a_time_on_a_backend_that_is_named_is_another_number(line, name):
    resources = ResourcesEntry(num_gpus=1, accelerator_type="H100")
    given = {"backend": line.removeprefix("backend: ")} if line else {}
    grid = Grid.model_construct(resources=resources, **given)
    assert prepare.timing_device(grid) == name


# What a child process finds when it imports the published kernels.
STAND_IN = """
import sys
sys.path.insert(0, {tests!r})
from stand_ins import {name}
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install packages for child processes; `probing.problems` asks anew."""

    def install(module, text):
        path = tmp_path.joinpath(*module.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(textwrap.dedent(text))

    monkeypatch.syspath_prepend(str(tmp_path))
    # Where answers are kept for the next process.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    probing.problems.cache_clear()
    yield install
    probing.problems.cache_clear()


def upstream(name):
    return STAND_IN.format(tests=os.path.dirname(__file__), name=name)  # noqa: PTH120


def test_each_operation_is_run_and_judged_apart(installed, tmp_path):
    """A right one, a wrong one, one that takes the process along, and one after it."""
    installed("mamba_ssm.ops.triton.ssd_combined", upstream("mamba_chunk_scan_combined"))
    installed("mamba_ssm.ops.triton.selective_state_update", upstream("selective_state_update"))
    installed(
        "mamba_ssm.ops.selective_scan_interface",
        upstream("selective_scan_fn")
        + "right = selective_scan_fn\n"
        + "def selective_scan_fn(*args, **kwargs):\n"
        + "    y, left = right(*args, **kwargs)\n    return y, left * 1.1\n",
    )
    installed("causal_conv1d", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    found = probing.problems("mamba_ssm", (CONV, SSD, SCAN), "cpu", "bfloat16")
    assert list(found) == [CONV, SSD, SCAN]
    assert found[CONV] == "its process died of SIGSEGV"
    assert found[SSD] is None
    assert found[SCAN].startswith("it is wrong: off by 1.")
    # Asked once in the life of a process.
    assert probing.problems("mamba_ssm", (CONV, SSD, SCAN), "cpu", "bfloat16") is found
    assert not list(tmp_path.glob("ssmbench-backends-*")), "a crash may be the moment's"


@pytest.fixture
def answers(installed, monkeypatch):
    """What children would answer, and how often they were asked, by one process after another."""
    asked = []

    def ask(*reply):
        def answered(words):
            asked.append(words)
            return dict(zip(words[3:], reply, strict=False)), "its process died of SIGSEGV"

        monkeypatch.setattr(probing, "_asked", answered)
        probing.problems.cache_clear()
        return probing.problems("triton", (SSD, CONV), "cpu", "float32"), len(asked)

    return ask


def test_what_lasts_is_kept_for_the_next_process(answers, installed):
    missing = "ModuleNotFoundError: No module named 'x'"
    assert answers(None, missing) == ({SSD: None, CONV: missing}, 1)
    assert answers("other", "other") == ({SSD: None, CONV: missing}, 1)
    # A package that is installed, or another one in its place.
    installed("causal_conv1d", "")
    assert answers(None, None) == ({SSD: None, CONV: None}, 2)


def test_what_may_be_the_moments_is_asked_again(answers):
    assert answers("it is wrong", None) == ({SSD: "it is wrong", CONV: None}, 1)
    assert answers(None) == ({SSD: None, CONV: "its process died of SIGSEGV"}, 2)
    assert answers(None, None)[1] == 3


@pytest.mark.parametrize("harm", ["torn", "others may write"])
def test_a_note_that_cannot_be_trusted_is_not(answers, tmp_path, harm):
    answers(None, None)
    (note,) = tmp_path.glob("ssmbench-backends-*/*")
    if harm == "torn":
        note.write_text('{"ssd": nu')
    else:
        note.parent.chmod(0o777)
    assert answers(None, None)[1] == 2


def test_a_backend_that_hangs_is_ended_with_all_that_it_started(installed, monkeypatch, tmp_path):
    installed(
        "torch",
        f"""
        import os, pathlib, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pathlib.Path({str(tmp_path / "pids")!r}).write_text(f"{{os.getpid()}} {{child.pid}}")
        sys.stdout.write("ssmbench-probe is not the beginning of an answer")
        time.sleep(600)
        """,
    )
    monkeypatch.setattr(probing, "TIMEOUT_S", 4.0)
    found = probing.problems("mamba_ssm", (CONV,), "cpu", "float32")
    assert found == {CONV: "it did not answer within 4 s"}
    for pid in map(int, (tmp_path / "pids").read_text().split()):
        deadline = time.monotonic() + 10
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_alive(pid)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_our_kernels_are_found_right_by_a_child_process(installed):
    pytest.importorskip("triton", reason="triton is not installed: it is for Linux alone")
    found = backends.available("cpu", "float32")
    assert [a.backend for a in found] == ["mamba_ssm", "triton", "torch"]
    assert [a.usable for a in found] == [False, True, True]
    assert found[0].reasons == ("it needs a GPU",)
    assert found[1].reasons == ()


def test_a_missing_package_is_named():
    """In this process: what a child would print."""
    on_mamba_ssm._function.cache_clear()
    problem = probing._problem("mamba_ssm", CONV, "cpu", "float32")
    if problem is None:
        pytest.skip("causal_conv1d is installed")
    assert problem == "ModuleNotFoundError: No module named 'causal_conv1d'"


@pytest.mark.parametrize("value", [float("nan"), 1.0])
def test_a_wrong_or_undefined_result_disqualifies(monkeypatch, value):
    def conv(x, weight, bias, tail=None):
        y = naive.causal_conv(x, weight, bias, tail)
        y[0, 0, 0] += value
        return y

    monkeypatch.setattr(backends, "function", lambda *_: conv)
    problem = probing._problem("triton", CONV, "cpu", "float32")
    assert problem.startswith("it is wrong: off by ")
