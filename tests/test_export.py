"""Writing checkpoints: whatever a method leaves is read back bit for bit, here and elsewhere."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from ssmbench import plugins
from ssmbench.errors import CheckpointError, MethodError
from ssmbench.models import layout, source
from ssmbench.models.checkpoint import load, read, tensors
from ssmbench.models.decoder import Decoder
from ssmbench.models.export import LAYOUTS, save
from ssmbench.models.initialise import initialise
from ssmbench.surgery import axes
from ssmbench.surgery.context import MethodContext
from ssmbench.surgery.coupling import table

FAMILIES = plugins.names("family")
# Methods that drop tokens say so, and leave nothing that a checkpoint could hold.
DROPPING = [m for m in plugins.names("method") if hasattr(plugins.load("method", m), "drops")]
METHODS = [
    *(m for m in plugins.names("method") if m not in DROPPING),
    "random state",
    "random head_dim",
    "random head",
    "random block",
]
IDS = torch.randint(0, 61, (2, 33), generator=torch.Generator().manual_seed(0))


@cache
def dense(family: str) -> Decoder:
    """The family's tiny model, all parameters random, norms and biases too."""
    model = Decoder(plugins.load("family", family).tiny())
    initialise(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def make(family: str) -> Decoder:
    return copy.deepcopy(dense(family))


@cache
def compressed(method: str, family: str) -> Decoder | str:
    """A tiny model at ratio 0.5, or why that cannot be."""
    model = make(family)
    try:
        prune(model, method)
    except (MethodError, ValidationError) as error:
        return str(error)
    return model


def prune(model: Decoder, method: str) -> None:
    name, *unit = method.split()
    plugin = plugins.load("method", name)
    params = {"unit": unit[0]} if unit else {}
    if model.description.family in ("gpt_neox", "llama") and "layers" in plugin.Params.model_fields:
        params["layers"] = "attention"
    windows = torch.randint(0, 61, (4, 24), generator=torch.Generator().manual_seed(3))
    context = MethodContext(seed=0, calibration=windows)
    plugin.compress(model, ratio=0.5, params=plugin.Params(**params), context=context)


def assert_same(found: Decoder, expected: Decoder) -> None:
    assert found.description == expected.description
    given, own = found.state_dict(), expected.state_dict()
    assert given.keys() == own.keys()
    assert all(torch.equal(given[name], own[name].float()) for name in own)
    assert torch.equal(found(IDS), expected.float()(IDS))


def uneven(model: Decoder) -> Decoder:
    """Take one state, channel or head away from the first layer alone."""
    t = table(model.layers[0].spec.mixer)
    axis = next(a for a in ("n", "p", "r", "g") if a in t.lead and t.length[a] > 1)
    *lead, length = t.shape(axis)
    axes.take(model, 0, axis, torch.arange(length - 1).expand(*lead, -1))
    return model


# ---- ssmbench's own layout ----


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_leaves_is_read_back_bit_for_bit(method, family, tmp_path):
    model = compressed(method, family)
    if isinstance(model, str):
        pytest.skip(model)
    save(model, tmp_path, layout="ssmbench")
    assert source.recognise(tmp_path) == family
    assert source.describe(tmp_path) == model.description
    assert_same(read(tmp_path), model)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_applies_to_some_family(method):
    assert any(isinstance(compressed(method, family), Decoder) for family in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_methods_that_change_it(family):
    changed = {m for m in METHODS if isinstance(compressed(m, family), Decoder)} - {"dense"}
    assert len(changed) >= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_layers_and_removed_mixers_are_read_back(family, tmp_path):
    model = uneven(make(family))
    axes.remove_mixer(model, 1)
    save(model, tmp_path, layout="ssmbench")
    assert_same(read(tmp_path), model)


@pytest.mark.parametrize("method", DROPPING)
def test_a_model_that_drops_tokens_is_not_written_as_if_its_weights_said_so(method, tmp_path):
    model = make("mamba2")
    prune(model, method)
    with pytest.raises(CheckpointError, match="drops prompt tokens while it runs"):
        save(model, tmp_path / "folder", layout="ssmbench")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("family", ["mamba", "mamba2", "phi_mamba"])
def test_an_added_bias_is_read_back(family, tmp_path):
    model = make(family)
    axes.add_output_bias(model, 1, torch.linspace(-1, 1, 24))
    save(model, tmp_path, layout="ssmbench")
    assert_same(read(tmp_path), model)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("form", LAYOUTS)
def test_half_precision_stays_on_disk_and_is_read_exactly(form, dtype, tmp_path):
    model = make("mamba2").to(getattr(torch, dtype))
    save(model, tmp_path, layout=form)
    on_disk = load_file(tmp_path / "model.safetensors").values()
    assert {t.dtype for t in on_disk} == {getattr(torch, dtype)}
    for asked in ("float32", dtype):
        again = load(str(tmp_path), dtype=asked).state_dict()
        assert all(torch.equal(again[n], t.float()) for n, t in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_transformers_takes_the_dtype_of_the_file(tmp_path):
    from transformers import AutoModelForCausalLM

    save(make("mamba2").bfloat16(), tmp_path, layout="transformers")
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16


@pytest.mark.parametrize("form", LAYOUTS)
def test_a_tied_head_is_stored_once_and_tied_again(form, tmp_path):
    save(make("llama"), tmp_path, layout=form)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = read(tmp_path)
    assert again.lm_head.weight is again.embedding.weight


def test_finding_such_a_folder_needs_no_torch(tmp_path):
    save(uneven(make("hybrid_llama")), tmp_path, layout="ssmbench")
    code = (
        "import sys; from ssmbench.models import source; "
        f"found = source.resolve({str(tmp_path)!r}); "
        "assert found.family == 'hybrid_llama', found; source.description(found.source); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_fingerprint_follows_config_and_weights(tmp_path):
    save(make("mamba2"), tmp_path / "a", layout="ssmbench")
    save(make("mamba2"), tmp_path / "b", layout="ssmbench")
    assert source.fingerprint(tmp_path / "a") == source.fingerprint(tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    config["description"]["layers"][0]["norm"]["eps"] = 1e-4
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    assert source.fingerprint(tmp_path / "a") != source.fingerprint(tmp_path / "b")


# ---- what is refused ----


@pytest.fixture
def own(tmp_path):
    save(make("mamba2"), tmp_path, layout="ssmbench")
    return tmp_path


def test_a_missing_an_extra_and_a_wrong_tensor_are_all_named(own):
    weights = load_file(own / "model.safetensors")
    del weights["layers.1.mixer.D"]
    weights["layers.0.mixer.surplus"] = torch.zeros(3)
    weights["norm_f.weight"] = torch.zeros(7)
    save_file(weights, own / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        read(own)
    message = str(caught.value)
    assert "layers.1.mixer.D: missing" in message
    assert "layers.0.mixer.surplus: extra" in message
    assert "norm_f.weight: found (7,), expected (24,)" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(version=9), "layout version 9; expected 1"),
        (lambda c: c.pop("description"), "found no description of a model"),
        (lambda c: c["description"].update(family="rwkv"), "family 'rwkv'; this version"),
        (lambda c: c["description"].update(d_model="24"), "Description.d_model: Input should be"),
        (lambda c: c["description"].update(depth=2), "Description has no depth"),
        (lambda c: c["description"].pop("layers"), "'layers'"),
        (lambda c: c["description"]["layers"][0].update(mixer={"is": "RNN"}), "called 'RNN'"),
        (lambda c: c["description"]["layers"][0].update(mixer={"is": "Norm"}), "Layer.mixer"),
    ],
)
def test_a_foreign_or_damaged_config_says_what_is_wrong(own, change, expected):
    config = json.loads((own / "config.json").read_text())
    change(config)
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=expected):
        source.recognise(own)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_description_survives_json(family):
    description = uneven(make(family)).description
    files = {"config.json": json.loads(json.dumps(layout.config(description)))}
    assert layout.is_ours(files)
    assert layout.describe(files, "here") == description


# ---- the published layouts ----

# What each layout holds beside the dense model; the rest it may hold or refuse, never alter.
UPSTREAM = {
    *(("wanda", family) for family in ("mamba", "mamba2", "phi_mamba", "smol_mamba")),
    *(("state", family) for family in ("mamba", "mamba2", "phi_mamba", "smol_mamba")),
    *(("merge", family) for family in ("phi_mamba", "smol_mamba", "hybrid_llama")),
    *(("head_dim", family) for family in ("phi_mamba", "smol_mamba")),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_the_upstream_layout_holds_a_model_wholly_or_refuses_it(method, family, tmp_path):
    model = compressed(method, family)
    if isinstance(model, str):
        assert (method, family) not in UPSTREAM
        pytest.skip(model)
    try:
        save(model, tmp_path, layout="upstream")
    except CheckpointError:
        assert method != "dense"
        assert (method, family) not in UPSTREAM
        assert not any(tmp_path.iterdir())
        return
    again = read(tmp_path)
    if len(again.layers) == len(model.layers):
        assert_same(again, model)
    # What is left out does nothing.
    assert torch.equal(again(IDS), model(IDS))


@pytest.mark.parametrize(
    ("golden", "form"),
    [
        ("mamba1_orig", "upstream"),
        ("mamba1_hf", "transformers"),
        ("mamba2_orig", "upstream"),
        ("mamba2_hf", "transformers"),
        ("mamba2_orig_hybrid_mlp", "upstream"),
        ("phi_mamba", "upstream"),
        ("phi_mamba_pruned_dstate", "upstream"),
        ("smol_mamba", "upstream"),
        ("smol_mamba_mva", "upstream"),
        ("smol_mamba_pruned_qk", "upstream"),
        ("llama_mamba2", "upstream"),
    ],
)
def test_a_golden_is_written_as_upstream_wrote_it(shared, golden, form, tmp_path):
    """The same names and the same bits as in the files of the published code."""
    model = read(shared / "golden" / golden)
    save(model, tmp_path, layout=form)
    theirs, ours = dict(tensors(shared / "golden" / golden)), dict(tensors(tmp_path))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name].float(), ours[name]) for name in theirs)
    assert read(tmp_path).description == model.description


def test_a_layer_that_does_nothing_is_left_out_of_the_upstream_layout(tmp_path):
    model = make("mamba2")
    axes.remove_mixer(model, 0)
    save(model, tmp_path, layout="upstream")
    assert json.loads((tmp_path / "config.json").read_text())["n_layer"] == 1
    again = read(tmp_path)
    assert torch.equal(again(IDS), model(IDS))
    assert torch.equal(again.layers[0].mixer.D, model.layers[1].mixer.D)
    axes.remove_mixer(model, 1)
    with pytest.raises(CheckpointError, match="found no layer"):
        save(model, tmp_path, layout="upstream")


def head_dims(model: Decoder) -> Decoder:
    for i, layer in enumerate(model.layers):
        *lead, length = table(layer.spec.mixer).shape("p")
        axes.take(model, i, "p", torch.arange(length // 2).expand(*lead, -1))
    return model


def without_a_mixer(model: Decoder) -> Decoder:
    axes.remove_mixer(model, 0)
    return model


def with_a_bias(model: Decoder) -> Decoder:
    for i in range(len(model.layers)):
        axes.add_output_bias(model, i, torch.ones(24))
    return model


@pytest.mark.parametrize("form", ["upstream", "transformers"])
@pytest.mark.parametrize(
    ("family", "change", "expected"),
    [
        ("mamba2", uneven, "layers"),
        ("mamba2", head_dims, "norm_eps is 2e-05 and would be read as 1e-05"),
        ("mamba2", with_a_bias, "bias"),
        ("mamba", uneven, "layers"),
        ("llama", without_a_mixer, "layer"),
        ("gpt_neox", without_a_mixer, "layer"),
    ],
)
def test_what_a_published_config_cannot_say_is_refused_with_a_reason(
    family, change, expected, form, tmp_path
):
    model = change(make(family))
    with pytest.raises(CheckpointError, match=expected) as caught:
        save(model, tmp_path / "out", layout=form)
    assert f"a {family} model cannot be written in the layout '{form}'" in str(caught.value)
    assert "--layout ssmbench" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["phi_mamba", "smol_mamba", "hybrid_llama"])
def test_a_family_that_transformers_lacks_is_not_written_for_it(family, tmp_path):
    with pytest.raises(CheckpointError, match="transformers has no class for this family"):
        save(make(family), tmp_path, layout="transformers")


TRANSFORMERS = [
    ("dense", "mamba"),
    ("dense", "mamba2"),
    ("dense", "gpt_neox"),
    ("dense", "llama"),
    ("state", "mamba"),
    ("state", "mamba2"),
    ("random state", "mamba2"),
    ("wanda", "mamba2"),
    ("merge", "llama"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "family"), TRANSFORMERS)
def test_transformers_own_class_gives_the_same_logits(method, family, tmp_path):
    from transformers import AutoModelForCausalLM

    model = compressed(method, family)
    assert isinstance(model, Decoder), model
    save(model, tmp_path, layout="transformers")
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        found = theirs.eval()(IDS).logits
    expected = model(IDS)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= 2e-4 * expected.std()
    assert_same(read(tmp_path), model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["state", "merge"])
def test_a_pruned_zoo_model_runs_in_transformers(method, tmp_path):
    from transformers import Mamba2ForCausalLM

    model = load("zoo:mamba2")
    before = model.description.layers[0].mixer
    prune(model, method)
    after = model.description.layers[0].mixer
    halves = {"state": {"d_state": before.d_state // 2}, "merge": {"n_heads": before.n_heads // 2}}
    assert after == replace(before, **halves[method])
    save(model, tmp_path, layout="transformers")
    theirs = Mamba2ForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        found, expected = theirs(IDS).logits, model(IDS)
    assert (found - expected).abs().max() <= 2e-4 * expected.std()
