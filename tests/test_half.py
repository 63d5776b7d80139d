"""Half precision on a CPU: in its units where it has them, else stored and widened to multiply."""

from __future__ import annotations

import dataclasses
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from finetune_helpers import fine_tuned, recipe, windows
from safetensors.torch import load_file
from surgery_helpers import MODELS, build, tokens
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from ssmbench import plugins
from ssmbench.errors import MethodError
from ssmbench.finetune.losses import kd_loss
from ssmbench.models import checkpoint, linear, precision
from ssmbench.models.forest import Forest
from ssmbench.plan.cells import Step
from ssmbench.suites._memory import weights_bytes
from ssmbench.surgery import axes, compress, facts, scores
from ssmbench.surgery.context import MethodContext

if TYPE_CHECKING:
    from ssmbench.models.decoder import Decoder

HALVES = ("bfloat16", "float16")
METHODS = plugins.names("method")


@pytest.fixture
def without_units(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16_units", lambda: False)


@pytest.fixture
def with_units(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16_units", lambda: True)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Give name -> a folder that holds the model in float32."""
    root = tmp_path_factory.mktemp("half")

    def folder(name: str):
        if not (root / name).exists():
            checkpoint.save(build(MODELS[name]), root / name, layout="ssmbench")
        return root / name

    return folder


def halved(folder, dtype: str) -> Decoder:
    return checkpoint.load(str(folder), dtype=dtype)


def twin(folder, dtype: str) -> Decoder:
    """Load in float32 and round every parameter to what the half type can say."""
    model = checkpoint.load(str(folder))
    half = precision.DTYPES[dtype]
    for parameter in model.parameters():
        parameter.data = parameter.data.to(half).float()
    return model


def outputs(model: Decoder) -> list[torch.Tensor]:
    """Run a batch, rows of unlike lengths, forks with and without states, and decoding steps."""
    with torch.inference_mode():
        ids = tokens(3, 17, vocabulary=61, seed=5)
        found = [model(ids)]
        prefixes, suffixes = [(1, 2, 3, 4), (5,)], [(6, 7), (), (8, 9, 10)]
        forest = Forest.fork(prefixes, suffixes, [0, 1, 1])
        hidden, state = model.hidden(forest)
        ending, _ = model.hidden(forest, keep_state=False)
        found += [model.logits(hidden), model.logits(ending)]
        for step in range(3):
            hidden, state = model.hidden(Forest.ragged([[step + i] for i in range(3)]), state)
            found.append(model.logits(hidden))
    return found


def assert_same(model: Decoder, other: Decoder) -> None:
    for a, b in zip(outputs(model), outputs(other), strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", MODELS)
def test_storage_is_half_and_every_bit_that_of_rounded_weights(
    folders, without_units, monkeypatch, name, dtype
):
    monkeypatch.setattr(linear, "BLOCK_ELEMENTS", 1)
    model = halved(folders(name), dtype)
    half = precision.DTYPES[dtype]
    assert (model.dtype, model.compute_dtype) == (half, torch.float32)
    for module in model.modules():
        for part, parameter in module.named_parameters(recurse=False):
            large = isinstance(module, torch.nn.Linear | torch.nn.Embedding) and part == "weight"
            assert parameter.dtype == (half if large else torch.float32)
            assert not parameter.requires_grad
    tied = model.description.tie_embeddings
    assert (model.lm_head.weight is model.embedding.weight) == tied
    assert_same(model, twin(folders(name), dtype))


def test_a_vocabulary_of_many_blocks_gives_the_same_bits(tmp_path, without_units, monkeypatch):
    monkeypatch.setattr(linear, "BLOCK_ELEMENTS", 1)
    large = build(dataclasses.replace(MODELS["mamba2"], vocab_size=500))
    checkpoint.save(large, tmp_path, layout="ssmbench")
    watched, asked = halved(tmp_path, "bfloat16"), []
    monkeypatch.setattr(F, "linear", spy(F.linear, asked))
    watched(torch.arange(9)[None])
    assert sum(rows == 64 for rows in asked) >= 6
    assert max(asked) < 128
    monkeypatch.undo()
    monkeypatch.setattr(precision, "cpu_has_bf16_units", lambda: False)
    assert_same(halved(tmp_path, "bfloat16"), twin(tmp_path, "bfloat16"))


def spy(function, asked: list[int]):
    def wrapped(x, weight, bias=None):
        asked.append(len(weight))
        return function(x, weight, bias)

    return wrapped


@pytest.mark.parametrize("n_vectors", [(1,), (2,), (5,), (3, 7), (64,), (255,), (256,)])
@pytest.mark.parametrize("shape", [(700, 48), (129, 769), (1000, 1024), (64, 4100), (5, 3)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_in_blocks_has_the_bits_of_the_whole(monkeypatch, n_vectors, shape, biased):
    monkeypatch.setattr(linear, "BLOCK_ELEMENTS", 1 << 16)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(*n_vectors, shape[1], generator=draw)
    weight = torch.randn(shape, generator=draw).bfloat16()
    bias = torch.randn(shape[0], generator=draw) if biased else None
    expected = F.linear(x, weight.float(), bias)
    assert torch.equal(linear.product(x, weight, bias), expected)


def test_gradients_are_those_of_the_widened_weight_and_no_copy_of_it_is_kept():
    draw = torch.Generator().manual_seed(0)
    module = linear.Linear(48, 700)
    module.weight.data = torch.randn(700, 48, generator=draw).bfloat16()
    module.bias.data = torch.randn(700, generator=draw)
    module.weight.grad_dtype = torch.float32
    x, other = (torch.randn(2, 3, 48, generator=draw) for _ in range(2))
    wide = module.weight.detach().float().requires_grad_()
    bias = module.bias.detach().clone().requires_grad_()
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = module(mine)
    assert {(t.dtype, t.shape) for t in kept} == {
        (torch.bfloat16, module.weight.shape),
        (torch.float32, x.shape),
    }
    expected = F.linear(theirs, wide, bias)
    assert torch.equal(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    assert_close(mine.grad, theirs.grad)
    assert_close(module.weight.grad, wide.grad)
    assert_close(module.bias.grad, bias.grad)
    # A frozen weight asks for its input's gradient alone, and keeps no input.
    module.requires_grad_(requires_grad=False)
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = module(other.requires_grad_())
    assert [t.dtype for t in kept] == [torch.bfloat16]
    assert_close(*torch.autograd.grad(y.sum(), other), wide.sum(0).expand_as(other).detach())


@pytest.mark.parametrize("name", MODELS)
def test_with_units_all_is_half_as_on_a_gpu(folders, with_units, name):
    model, exact = halved(folders(name), "bfloat16"), twin(folders(name), "bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.dtype == model.compute_dtype == torch.bfloat16
    assert_same(model, checkpoint.load(str(folders(name))).to(torch.bfloat16))
    seen = []
    hook = model.layers[0].register_forward_pre_hook(lambda _m, given: seen.append(given[0].dtype))
    for found, expected in zip(outputs(model), outputs(exact), strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.03 * expected.norm()
    hook.remove()
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(
    ("dtype", "device", "units", "expected"),
    [
        ("float32", "cpu", True, "float32"),
        ("bfloat16", "cpu", True, "bfloat16"),
        ("bfloat16", "cpu", False, "float32"),
        ("float16", "cpu", True, "float32"),
        ("float16", "cuda", False, "float16"),
        ("bfloat16", "cuda:1", False, "bfloat16"),
    ],
)
def test_what_is_computed_in_follows_type_device_and_units(
    monkeypatch, dtype, device, units, expected
):
    monkeypatch.setattr(precision, "cpu_has_bf16_units", lambda: units)
    assert precision.compute_dtype(dtype, device) == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
        (None, False),
    ],
)
def test_units_are_what_the_processor_tells(monkeypatch, told, expected):
    if told is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told)
    mkldnn = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", mkldnn)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert precision.cpu_has_bf16_units() is expected
    # Units that the library does not use are none.
    monkeypatch.setattr(mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not precision.cpu_has_bf16_units()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.cpu_has_bf16_units()


def compressed(model: Decoder, name: str, **params) -> Decoder:
    module = plugins.load("method", name)
    full = module.Params(**params).model_dump()
    context = MethodContext(seed=0, calibration=tokens(4, 16, vocabulary=61, seed=1))
    step = Step(name, module.VERSION, 0.0 if name == "dense" else 0.5, full)
    compress.apply(model, (step,), context)
    return model


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("method", [m for m in METHODS if m != "merge"])
def test_methods_that_choose_give_the_same_bits(folders, without_units, method, dtype):
    """What is rounded afterwards is no projection: a rescaled norm and FLAP's bias stay whole."""
    for name in ("mamba2", "mamba"):
        folder = folders(name)
        try:
            expected = compressed(twin(folder, dtype), method)
        except MethodError as refused:
            with pytest.raises(MethodError, match=str(refused)[:20]):
                compressed(halved(folder, dtype), method)
            continue
        found = compressed(halved(folder, dtype), method)
        assert found.dtype == precision.DTYPES[dtype]
        assert_same(found, expected)


def test_merged_weights_are_rounded_once(folders, without_units):
    found, expected = (
        compressed(load(folders("grouped"), "bfloat16"), "merge") for load in (halved, twin)
    )
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b.to(a.dtype))
    assert found.layers[0].mixer.in_proj.weight.dtype == torch.bfloat16


def test_an_added_bias_is_held_as_other_small_parameters_are(folders, without_units):
    model = halved(folders("mamba2"), "bfloat16")
    axes.add_output_bias(model, 0, torch.full((24,), 1 / 3))
    assert torch.equal(model.layers[0].mixer.out_proj.bias, torch.full((24,), 1 / 3))


@pytest.mark.parametrize("dtype", HALVES)
def test_importance_is_taken_from_whole_gradients(folders, without_units, dtype):
    def found(model: Decoder) -> dict[str, torch.Tensor]:
        context = MethodContext(seed=0, calibration=tokens(3, 16, vocabulary=61, seed=1))
        return scores.gradients(model, context)

    mine, exact = (found(load(folders("mamba2"), dtype)) for load in (halved, twin))
    for name, value in exact.items():
        # Gradients rounded to bfloat16 would be off by 1e-3.
        assert_close(mine[name], value, rtol=2e-5, atol=0)


@pytest.mark.parametrize("values", [{}, {"keep_zeros": True}, {"kind": "ce"}])
def test_adapters_learn_beside_half_weights_what_they_learn_beside_rounded_ones(
    folders, without_units, values
):
    kind, keep_zeros = values.get("kind", "kd"), values.get("keep_zeros", False)
    ends = []
    for load in (halved, twin):
        folder = folders("mamba2")
        model = compressed(load(folder, "float16"), "wanda")
        types = [p.dtype for p in model.parameters()]
        trained = fine_tuned(
            model,
            recipe(kind).model_copy(update={"dtype": None}),
            teacher=lambda load=load, folder=folder: load(folder, "float16"),
            windows=windows(n=10),
            keep_zeros=keep_zeros,
        )
        assert [p.dtype for p in model.parameters()] == types
        ends.append(trained)
    mine, exact = ends
    assert mine.loss_before == exact.loss_before
    for name, value in exact.tensors.items():
        assert_close(mine.tensors[name], value, rtol=1e-3, atol=1e-5)


def test_a_full_training_is_whole_and_its_end_rounded(folders, without_units):
    ends = []
    for load in (halved, twin):
        model = load(folders("mamba2"), "bfloat16")
        types = {n: p.dtype for n, p in model.named_parameters()}
        trained = fine_tuned(model, recipe("ce", adapters="all", dtype="float32"))
        assert {n: p.dtype for n, p in model.named_parameters()} == types
        ends.append((model, trained))
    (mine, learnt), (exact, expected) = ends
    assert all(torch.equal(learnt.tensors[n], t) for n, t in expected.tensors.items())
    for (name, a), b in zip(mine.named_parameters(), exact.parameters(), strict=True):
        assert torch.equal(a, b.to(a.dtype)), name


def test_the_losses_take_a_head_narrower_than_what_enters_it(folders, without_units):
    hidden, aim = (torch.randn(6, 24, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    losses = [
        kd_loss(hidden, head, aim, head, None, temperature=2.0)
        for head in (load(folders("mamba2"), "float16").lm_head for load in (halved, twin))
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("layout", ["ssmbench", "upstream"])
def test_a_folder_holds_the_stored_type_throughout(folders, tmp_path, monkeypatch, units, layout):
    monkeypatch.setattr(precision, "cpu_has_bf16_units", lambda: units)
    model = compressed(halved(folders("mamba2"), "bfloat16"), "wanda")
    checkpoint.save(model, tmp_path, layout=layout)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert_same(halved(tmp_path, "bfloat16"), model)


def test_bytes_are_counted_as_they_are_held(folders, without_units):
    model, exact = (load(folders("mamba2"), "bfloat16") for load in (halved, twin))
    large = sum(p.numel() for p in model.parameters() if p.dtype == torch.bfloat16)
    assert weights_bytes(model) == weights_bytes(exact) - 2 * large
    assert facts.measure(model, model.description) == facts.measure(exact, exact.description)


class Live(TorchDispatchMode):
    """Notes the most bytes that tensors made while it is entered held at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._refs = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self._refs += [weakref.ref(t) for t in (found,) if isinstance(t, torch.Tensor)]
        alive = [t for ref in self._refs if (t := ref()) is not None and t.device.type == "cpu"]
        self.peak = max(self.peak, sum({t.data_ptr(): t.nbytes for t in alive}.values()))
        return found


def test_a_checkpoint_is_read_tensor_by_tensor(tmp_path):
    """Beside the half model one tensor is on its way, and never the whole of it in float32."""
    layer = MODELS["mamba2"].layers[0]
    model = build(dataclasses.replace(MODELS["mamba2"], layers=(layer,) * 12))
    checkpoint.save(model.to(torch.bfloat16), tmp_path, layout="ssmbench")
    with Live() as live:
        half = checkpoint.read(tmp_path, dtype=torch.float16, computed=torch.float32)
    largest = max(p.numel() for p in model.parameters())
    assert weights_bytes(half) < live.peak < weights_bytes(half) + 12 * largest
    assert weights_bytes(half) + 12 * largest < 4 * sum(p.numel() for p in model.parameters())
