"""2:4 at run time: what is converted, how it is padded, and that the model comes back."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from evaluate_helpers import context_of
from hypothesis import given, settings
from hypothesis import strategies as st
from surgery_helpers import RMS, build, of, tokens
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from ssmbench.errors import MethodError
from ssmbench.kernels import semi_structured as s
from ssmbench.models import description as d
from ssmbench.suites import latency
from ssmbench.suites._gemms import Watched, replay
from ssmbench.suites._memory import weights_bytes
from ssmbench.surgery.projections import keep_pattern


def two_four(weight: torch.Tensor) -> torch.Tensor:
    return weight * keep_pattern(weight.abs(), "2:4")


def as_dense(weight: torch.Tensor) -> torch.Tensor:
    """Stand for the GPU's conversion: refuse what it refuses."""
    assert weight.is_contiguous()
    assert weight.shape[0] % s.MULTIPLE == 0
    assert weight.shape[1] % s.MULTIPLE == 0
    assert s.is_two_four(weight)
    return weight.clone()


@given(rows=st.integers(1, 5), seed=st.integers(0, 99), spoilt=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_pattern_is_recognised(rows, seed, spoilt):
    torch.manual_seed(seed)
    weight = two_four(torch.randn(rows, 16))
    if spoilt:
        row, group = seed % rows, seed % 4
        weight[row, 4 * group : 4 * group + 3] = 1.0
    assert s.is_two_four(weight) is not spoilt
    assert not s.is_two_four(torch.zeros(2, 6))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [16, 17, 31, 3352 % 100])
def test_rows_are_padded_and_cut_again(rows, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(32, rows, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(two_four(linear.weight))
        x = torch.randn(2, 3, 32)
        found = s.SparseLinear(linear, as_dense)(x)
        assert found.shape == (2, 3, rows)
        assert torch.allclose(found, linear(x), atol=1e-6)


def model_of(dtype: torch.dtype = torch.bfloat16):
    layer = d.Layer(d.SSD(4, 8, 16, n_groups=1), RMS)
    model = build(of("mamba2", layer, layer)).to(dtype)
    first = model.layers[0].mixer
    # d_model of these models is not a multiple of 16: only out_proj's 32 inputs are.
    with torch.no_grad():
        first.out_proj.weight.copy_(two_four(first.out_proj.weight.float()).to(dtype))
    return model


def test_only_what_is_pruned_so_is_converted_and_everything_comes_back():
    model = model_of()
    assert list(s.prunable(model)) == ["layers.0.mixer.out_proj"]
    before = model(tokens(1, 9))
    kept = model.layers[0].mixer.out_proj
    with s.sparse_products(model, convert=as_dense) as n:
        assert n == 1
        assert isinstance(model.layers[0].mixer.out_proj, s.SparseLinear)
        assert torch.equal(model(tokens(1, 9)), before)
    assert model.layers[0].mixer.out_proj is kept
    with pytest.raises(RuntimeError, match="midway"), s.sparse_products(model, convert=as_dense):
        raise RuntimeError("midway")
    assert model.layers[0].mixer.out_proj is kept


def test_other_dtypes_stay_dense():
    assert s.prunable(model_of(torch.float32)) == {}


def test_a_processor_has_no_such_products():
    assert "need a GPU" in (s.why_not(torch.device("cpu")) or "")


def as_held(weight: torch.Tensor) -> torch.Tensor:
    """Convert as torch does for CUTLASS; its own check lets GPUs alone do so."""
    packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
    return SparseSemiStructuredTensorCUTLASS(weight.shape, packed, meta, None, None, None)


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")
def test_a_models_memory_counts_what_a_compressed_weight_holds():
    dense = model_of()
    projection = torch.nn.Linear(64, 60, dtype=torch.bfloat16)
    with torch.no_grad():
        projection.weight.copy_(two_four(projection.weight.float()))
    dense.layers[0].mixer.out_proj = projection
    before = weights_bytes(dense)
    assert before == sum(p.numel() * p.element_size() for p in dense.parameters())
    with s.sparse_products(dense, convert=as_held) as n:
        assert n == 1
        # 60 rows of 64 inputs are padded to 64: half the values, and two bits for each of them.
        rest = before - 2 * (60 * 64 + 60)
        assert weights_bytes(dense) == rest + 64 * 32 * 2 + 64 * 32 * 2 // 8 + 64 * 2
    assert weights_bytes(dense) == before


def test_the_floor_multiplies_by_what_is_held():
    model = model_of()
    with torch.inference_mode(), s.sparse_products(model, convert=as_dense):
        held = model.layers[0].mixer.out_proj.sparse
        with Watched(model) as watched:
            model(tokens(1, 9))
        assert sum(gemm.weight is held for gemm in watched.gemms) == 1
        assert all(gemm.weight is not None for gemm in watched.gemms)
        replay(watched.gemms, model.device)()


def timed(model, folder, dense):
    context = context_of(model, None, folder, dense=lambda: dense)
    params = latency.Params(
        prefill=((1, 5),), decode=((1, 4),), repeats=2, warmup=0, semi_structured=True
    )
    return latency.run(context, params).latency


def test_the_latency_suite_runs_them_and_says_how_many(tmp_path, monkeypatch):
    monkeypatch.setattr(s, "why_not", lambda device: None)
    monkeypatch.setattr(s, "sparse_products", partial(s.sparse_products, convert=as_dense))
    model, dense = model_of(), model_of()
    kept = model.layers[0].mixer.out_proj
    rows = timed(model, tmp_path, dense)
    assert [row["n_semi_structured"] for row in rows] == [1, 1]
    assert all(row["median_s"] > 0 for row in rows)
    assert model.layers[0].mixer.out_proj is kept
    with torch.no_grad():
        kept.weight[0, :4] = 1
    with pytest.raises(MethodError, match="found no projection that is 2:4"):
        timed(model, tmp_path, dense)
    whole = build(of("mamba2", d.Layer(d.SSD(4, 8, 16, n_groups=1), RMS))).to(torch.bfloat16)
    assert [row["n_semi_structured"] for row in timed(whole, tmp_path, dense)] == [0, 0]


def test_the_latency_suite_refuses_them_on_a_processor(tmp_path):
    with pytest.raises(MethodError, match=r"latency with semi_structured: 2:4 products need a GPU"):
        timed(model_of(), tmp_path, model_of())
