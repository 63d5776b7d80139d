"""The published kernels' adapter: what it makes of them, with stand-ins for the kernels.

Where mamba_ssm is installed, its Triton kernels run too, interpreted, in a process of their own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stand_ins
import torch
from hypothesis import given, settings
from kernel_helpers import (
    DTYPES,
    conv_inputs,
    dtypes,
    in_storage,
    off,
    scan_inputs,
    ssd_gradients,
    ssd_inputs,
    ssd_without_rates,
)
from torch.testing import assert_close

from ssmbench.kernels import check, naive, on_mamba_ssm

ORIGINAL = on_mamba_ssm._function.__wrapped__
EXAMPLES = settings(max_examples=60, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def upstream():
    """Put stand-ins in the published functions' place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_mamba_ssm, "_function", lambda _, name: stand_ins.FUNCTIONS[name])
        yield


@given(ssd_inputs(), dtypes)
@EXAMPLES
def test_ssd_agrees_with_the_recurrence(drawn, dtype):
    inputs, rates = drawn
    cast, wide = in_storage(inputs, dtype)
    found = on_mamba_ssm.ssd(**cast, rates=None if rates is None else rates.float())
    assert found[0].dtype == dtype
    assert found[1].dtype == torch.float32
    assert off(found, naive.ssd(**wide)) < DTYPES[dtype]


@given(scan_inputs(), dtypes)
@EXAMPLES
def test_a_selective_scan_from_a_state_agrees_with_the_recurrence(inputs, dtype):
    cast, wide = in_storage(inputs, dtype)
    found = on_mamba_ssm.selective_scan(**cast)
    assert found[0].dtype == dtype
    assert off(found, naive.selective_scan(**wide)) < DTYPES[dtype]


def test_what_a_state_adds_is_the_same_in_blocks(monkeypatch):
    inputs = next(check._cases("selective_scan", torch.float32))
    whole = on_mamba_ssm.selective_scan(**inputs)
    monkeypatch.setattr(on_mamba_ssm, "BLOCK_ELEMENTS", 1)
    assert_close(on_mamba_ssm.selective_scan(**inputs), whole)


@given(conv_inputs(), dtypes)
@EXAMPLES
def test_a_convolution_agrees_with_the_sum_of_taps(inputs, dtype):
    cast, wide = in_storage(inputs, dtype)
    found = on_mamba_ssm.causal_conv(**cast)
    assert found.dtype == dtype
    assert off(found, naive.causal_conv(**wide)) < DTYPES[dtype]


def test_a_single_row_keeps_no_stride_that_upstream_refuses():
    """One row of one position counts as contiguous whatever its strides are."""
    x = torch.randn(1, 1, 20).as_strided((1, 1, 16), (20, 20, 1))
    assert x.is_contiguous()
    weight = torch.randn(16, 4)
    assert_close(on_mamba_ssm.causal_conv(x, weight, None), naive.causal_conv(x, weight, None))


def test_a_state_that_others_hold_is_not_written_into():
    x, state = torch.randn(2, 1, 3, 16), torch.randn(2, 3, 16, 16)
    before, step, one = state.clone(), torch.rand(2, 1, 3), torch.randn(2, 1, 1, 16)
    rates = -torch.rand(3)
    on_mamba_ssm.ssd(x, step * rates, step, one, one, state=state, rates=rates)
    assert torch.equal(state, before)


@pytest.mark.parametrize("steps", [0.0, 1e-38, 1e-30, 200.0])
def test_steps_that_vanish_or_are_huge_stay_finite(steps):
    """The discrete form divides its input by the step."""
    decay = torch.full((1, 5, 2), -steps)
    x, B = torch.randn(1, 5, 2, 3) * 50, torch.randn(1, 5, 2, 4)
    found = on_mamba_ssm.ssd(x, decay, None, B, B)
    expected = naive.ssd(x.double(), decay.double(), None, B.double(), B.double())
    assert off(found, expected) < 1e-5


def test_what_upstream_cannot_do_is_left_to_the_torch_form():
    x, weight = torch.randn(1, 4, 8), torch.randn(8, 5)
    assert on_mamba_ssm.causal_conv(x, weight, None) is None
    assert on_mamba_ssm.causal_conv(x.double(), weight[:, :4].double(), None) is None
    dt, A, B = torch.rand(1, 4, 8), -torch.rand(8, 300), torch.randn(1, 4, 300)
    assert on_mamba_ssm.selective_scan(x, dt, A, B, B) is None
    small = (dt, A[:, :2], B[..., :2], B[..., :2])
    assert on_mamba_ssm.selective_scan(x, *small) is not None
    # Its last state has no gradient.
    assert on_mamba_ssm.selective_scan(x.requires_grad_(), *small) is None
    x, decay, one = torch.randn(1, 4, 2, 3), -torch.rand(1, 4, 2), torch.randn(1, 4, 2, 4)
    assert on_mamba_ssm.ssd(x, decay, None, one, one[:, :, :1]) is None
    # Gradients by a step that both divides and multiplies would cancel.
    assert on_mamba_ssm.ssd(x, decay.requires_grad_(), None, one, one) is None
    with torch.no_grad():
        assert on_mamba_ssm.ssd(x, decay, None, one, one) is not None


def test_gradients_go_through_what_is_padded():
    found = ssd_gradients(on_mamba_ssm.ssd, torch.float32)
    for name, grad in ssd_gradients(ssd_without_rates, torch.float64).items():
        assert off(found[name], grad) < 2e-6, name


def test_a_position_that_needs_a_gradient_does_not_take_the_step_in_place(monkeypatch):
    called = []
    scan = stand_ins.mamba_chunk_scan_combined
    found = {
        "mamba_chunk_scan_combined": lambda *a, **k: (called.append("scan"), scan(*a, **k))[1],
        "selective_state_update": lambda *_a, **_k: pytest.fail("has no backward pass"),
    }
    monkeypatch.setattr(on_mamba_ssm, "_function", lambda _, name: found[name])
    x, step, one = torch.randn(1, 1, 2, 16), torch.rand(1, 1, 2), torch.randn(1, 1, 1, 16)
    rates = -torch.rand(2)
    on_mamba_ssm.ssd(x.requires_grad_(), step * rates, step, one, one, rates=rates)
    assert called == ["scan"]


PACKAGE = """
raise ImportError("selective_scan_cuda, or transformers, is missing")
"""


@pytest.fixture
def bare_names(monkeypatch):
    """Let the packages be imported anew, and forgotten afterwards."""
    names = [n for n in sys.modules if n.partition(".")[0] in ("mamba_ssm", "selective_scan_cuda")]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("mamba_ssm", "selective_scan_cuda"):
            del sys.modules[name]


def test_kernels_are_found_although_their_package_cannot_be_imported(
    tmp_path, monkeypatch, bare_names
):
    for name in ("TRITON_F32_DEFAULT", "TRITON_CACHE_AUTOTUNING"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    folder = tmp_path / "mamba_ssm" / "ops"
    folder.mkdir(parents=True)
    (tmp_path / "mamba_ssm" / "__init__.py").write_text(PACKAGE)
    (folder / "__init__.py").write_text("")
    (folder / "kernel.py").write_text("def compute():\n    return 'computed'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    wanted = ORIGINAL("mamba_ssm.ops.kernel", "compute")
    assert wanted() == "computed"
    # As torch does by default; and no small tiles in an attempt that is to be deterministic.
    assert os.environ["TRITON_F32_DEFAULT"] == "ieee"
    assert os.environ["TRITON_CACHE_AUTOTUNING"] == "1"


def test_a_package_with_its_compiled_part_is_imported_as_it_is(tmp_path, monkeypatch, bare_names):
    (tmp_path / "selective_scan_cuda.py").write_text("")
    folder = tmp_path / "mamba_ssm"
    folder.mkdir()
    (folder / "__init__.py").write_text("whole = True\n")
    (folder / "kernel.py").write_text("import mamba_ssm\ncompute = mamba_ssm.whole\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ORIGINAL("mamba_ssm.kernel", "compute") is True


def test_a_package_that_is_not_there_says_so(bare_names):
    if importlib.util.find_spec("mamba_ssm") is not None:
        pytest.skip("mamba_ssm is installed")
    with pytest.raises(ImportError, match="No module named 'mamba_ssm'"):
        ORIGINAL("mamba_ssm.ops.kernel", "compute")


@pytest.mark.slow
def test_the_published_kernels_interpreted_agree_with_the_recurrence():
    """tests/interpreted_mamba_ssm.py, apart: it changes torch and triton for good."""
    for name in ("mamba_ssm", "einops", "triton"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (docs/gpu.md says how)")
    script = Path(__file__).with_name("interpreted_mamba_ssm.py")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ssd: off by" in done.stdout
    assert "gradients: off by" in done.stdout
