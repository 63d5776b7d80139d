"""The families: published logits, published sizes, configs there and back, what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from ssmbench import plugins
from ssmbench.errors import CheckpointError
from ssmbench.grid.catalogue import find
from ssmbench.models import description as d
from ssmbench.models import flops
from ssmbench.models.checkpoint import read
from ssmbench.models.decoder import Decoder
from ssmbench.models.export import save
from ssmbench.models.keys import rename

FAMILIES = plugins.names("family")
GOLDEN = {
    "phi_mamba": "phi_mamba",
    "phi_mamba_pruned_dstate": "phi_mamba",
    "smol_mamba": "smol_mamba",
    "smol_mamba_mva": "smol_mamba",
    "smol_mamba_pruned_qk": "smol_mamba",
    "llama_mamba2": "hybrid_llama",
}


def tiny(family: str) -> d.Description:
    description: d.Description = plugins.load("family", family).tiny()
    return description


def drawn(description: d.Description) -> Decoder:
    """Build a model whose every parameter matters: none is 0 or 1 throughout."""
    model = Decoder(description)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return model.eval().requires_grad_(False)


def with_layer(description: d.Description, i: int, **changes) -> d.Description:
    """Change the mixer of layer i."""
    layers = list(description.layers)
    mixer = dataclasses.replace(layers[i].mixer, **changes)
    layers[i] = dataclasses.replace(layers[i], mixer=mixer)
    return dataclasses.replace(description, layers=tuple(layers))


def again(description: d.Description) -> d.Description:
    """Write a description in its published layout, as JSON, and read it."""
    family = plugins.load("family", description.family)
    files = json.loads(json.dumps(family.config(description)))
    assert [f for f in FAMILIES if plugins.load("family", f).recognises(files)] == [
        description.family
    ]
    result: d.Description = family.describe(files, "x")
    return result


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_logits_are_reproduced(shared, name):
    folder = shared / "golden" / name
    io = load_file(folder / "io.safetensors")
    model = read(folder)
    assert model.description.family == GOLDEN[name]
    logits = model(io["input_ids"])
    assert (logits - io["logits"]).abs().max() <= 2e-4 * io["logits"].std()
    assert torch.equal(logits.argmax(-1), io["logits"].argmax(-1))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_checkpoints_are_written_as_they_were_read(shared, tmp_path, name):
    folder = shared / "golden" / name
    save(read(folder), tmp_path)
    theirs, ours = (load_file(f / "model.safetensors") for f in (folder, tmp_path))
    assert set(ours) == set(theirs)
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


# Totals of the published models. Phi's and Smol's are also printed by SSM-Pruner's logs
# (experiments_logs, results/orig_19.json); Llama's are those of the hub's file headers.
TOTALS = {
    # name: (whole model, SSM mixers, one mixer, SSM layers)
    "phi-mamba-1.5b": (1_521_097_472, 505_676_544, 21_069_856, 24),
    "smol2-mamba-1.9b": (1_915_308_800, 606_585_600, 25_274_400, 24),
    "mamba2-2.7b": (2_702_599_680, 2_573_696_000, 40_214_000, 64),
    "hlm-3b": (3_346_305_008, 485_876_720, 34_705_480, 14),
    "llama3.2-3b-instruct": (3_212_749_824, 0, 0, 0),
}


@pytest.mark.parametrize("name", TOTALS)
def test_published_sizes_hold_on_the_meta_device(name):
    description = find(name).describe()
    with torch.device("meta"):
        model = Decoder(description)
    ssm = [
        sum(p.numel() for p in block.mixer.parameters())
        for block in model.layers
        if not isinstance(block.spec.mixer, d.Attention)
    ]
    total, mixers, one, layers = TOTALS[name]
    assert sum(p.numel() for p in model.parameters()) == total
    assert (sum(ssm), len(ssm), set(ssm)) == (mixers, layers, {one} if layers else set())
    assert flops.parameters(description) == (total, mixers)


def test_the_totals_are_those_of_the_shape_arithmetic(shared):
    content = json.loads((shared / "spec" / "weight_pruning_golden.json").read_text())
    names = {
        "phi_mamba": "phi-mamba-1.5b",
        "smol2_mamba": "smol2-mamba-1.9b",
        "mamba2_2p7b": "mamba2-2.7b",
        "hlm_3b": "hlm-3b",
    }
    for theirs, ours in names.items():
        found = content["totals"][theirs]
        keys = ("model_total", "mixer_total", "per_mixer", "n_ssm")
        assert tuple(found[k] for k in keys) == TOTALS[ours]


@pytest.mark.parametrize(
    ("name", "changes", "in_proj", "conv", "out_proj"),
    [
        # Lengths of SSM-Pruner's pruned models: rows of in_proj, channels, columns of out_proj.
        ("phi-mamba-1.5b", {"d_state": 48}, 7200, 5120, 2048),
        ("phi-mamba-1.5b", {"head_dim": 48}, 7200, 5632, 1536),
        ("phi-mamba-1.5b", {"n_groups": 8}, 5152, 3072, 2048),
        ("smol2-mamba-1.9b", {"d_state": 48}, 7200, 5120, 2048),
        ("mamba2-2.7b", {"head_dim": 48}, 8016, 4096, 3840),
        ("mamba2-2.7b", {"d_state": 64}, 10448, 5248, 5120),
        ("hlm-3b", {"d_state": 96}, 7192, 4096, 3072),
        ("hlm-3b", {"n_groups": 4}, 7192, 4096, 3072),
    ],
)
def test_pruned_sizes_have_the_published_lengths(name, changes, in_proj, conv, out_proj):
    whole = find(name).describe()
    one = dataclasses.replace(whole, layers=whole.layers[:1])
    with torch.device("meta"):
        mixer = Decoder(with_layer(one, 0, **changes)).layers[0].mixer
    assert mixer.in_proj.weight.shape == (in_proj, whole.d_model)
    assert mixer.conv1d.weight.shape == (conv, 1, 4)
    assert mixer.out_proj.weight.shape == (whole.d_model, out_proj)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_is_read_back_as_the_description_that_it_was_written_from(family):
    assert again(tiny(family)) == tiny(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_go_to_the_published_layout_and_back(family, tmp_path):
    model = drawn(tiny(family))
    save(model, tmp_path)
    upstream = load_file(tmp_path / "model.safetensors")
    back = read(tmp_path).state_dict()
    assert set(back) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor), name
    module = plugins.load("family", family)
    if hasattr(module, "from_upstream"):
        renamed = {rename(k, module.KEYS): v for k, v in upstream.items()}
        ours = module.from_upstream(renamed, model.description)
        theirs = module.to_upstream(ours, model.description)
        assert set(theirs) == set(renamed)
        assert all(torch.equal(theirs[k], v) for k, v in renamed.items())


UNEVEN = {
    # What FLAP leaves: other heads in a layer, and a bias that makes up for the lost.
    "phi_mamba": {"n_heads": 3, "n_groups": 3, "out_bias": True},
    "smol_mamba": {"n_heads": 6, "n_groups": 3, "d_state": 4, "out_bias": True},
    "hybrid_llama": {"n_heads": 2, "norm_groups": 2, "out_bias": True},
}


@pytest.mark.parametrize("family", UNEVEN)
def test_layers_of_different_sizes_are_written_and_read(family, tmp_path):
    description = with_layer(tiny(family), 0, **UNEVEN[family])
    assert again(description) == description
    model = drawn(description)
    save(model, tmp_path)
    ids = torch.arange(40)[None] % 61
    assert torch.equal(read(tmp_path)(ids), model(ids))


def test_blocks_of_the_nested_config_follow_one_another():
    files = plugins.load("family", "phi_mamba").config(tiny("phi_mamba"))
    (block,) = (v for k, v in files["config.json"].items() if k.startswith("Block"))
    later = copy.deepcopy(block)
    block["n_layers"] = 1
    later["n_layers"] = 1
    later["core_input"] = {"d_state": 3, "n_v_heads": 2, "n_qk_heads": 1, "expand": 0.75}
    files["config.json"]["Block2"] = later
    first, second = plugins.load("family", "phi_mamba").describe(files, "x").layers
    assert first == tiny("phi_mamba").layers[0]
    assert second.mixer == dataclasses.replace(
        first.mixer, d_state=3, n_heads=2, n_groups=1, head_dim=9
    )


def test_mlps_of_different_widths_are_read_from_a_hybrids_dictionaries():
    whole = tiny("hybrid_llama")
    narrow = dataclasses.replace(whole.layers[1], mlp=d.MLP("swiglu", 9, bias=False))
    uneven = dataclasses.replace(whole, layers=(whole.layers[0], narrow, whole.layers[2]))
    # config.json has the attention layer's width, the dictionaries have all.
    assert again(uneven) == uneven


def llama(**changes):
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        **changes,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


# Of four pairs of channels one turns as before, one lies between, two are stretched.
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMAS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True, "attention_bias": True},
    "stretched": {"head_dim": 8, "rope_parameters": STRETCHED, "rms_norm_eps": 1e-5},
    "biased": {"attention_bias": True, "mlp_bias": True},
}


@pytest.fixture(scope="module", params=LLAMAS)
def theirs(request, tmp_path_factory):
    """A transformers Llama and the folder that it was saved to."""
    model = llama(**LLAMAS[request.param])
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return model, folder


def expected(model) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 61, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return ids, model(ids).logits


def test_llamas_logits_are_those_of_transformers(theirs):
    model, folder = theirs
    ids, logits = expected(model)
    assert (read(folder)(ids) - logits).abs().max() <= 2e-5 * logits.std()


@pytest.mark.parametrize("theirs", ["plain", "tied", "stretched"], indirect=True)
def test_a_hybrids_attention_layers_are_llamas(theirs, tmp_path):
    model, folder = theirs
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    mamba = {"attn_layers": [0, 1], "n_layer": 2, "d_model": 24}
    (tmp_path / "mamba_config.json").write_text(json.dumps(mamba))
    hybrid = read(tmp_path)
    assert hybrid.description.family == "hybrid_llama"
    ids, logits = expected(model)
    assert (hybrid(ids) - logits).abs().max() <= 2e-5 * logits.std()


def test_a_llama_that_we_write_is_loaded_by_transformers(theirs, tmp_path):
    import transformers

    model, folder = theirs
    save(read(folder), tmp_path)
    loaded, report = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    _, logits = expected(model)
    assert_close(expected(loaded)[1], logits, rtol=0, atol=1e-6)
    # The rotary base and its stretching are said as versions before 5 say them.
    config = json.loads((tmp_path / "config.json").read_text())
    assert ("rope_theta" in config, "rope_parameters" in config) == (True, False)


@pytest.mark.parametrize("kind", ["type", "rope_type"])
def test_old_and_new_words_for_rotary_positions_mean_the_same(kind):
    family = plugins.load("family", "llama")
    new = family.config(tiny("llama"))["config.json"]
    old = {k: v for k, v in STRETCHED.items() if k not in ("rope_type", "rope_theta")}
    words = {**new, "rope_scaling": {**old, kind: "llama3"}, "rope_theta": 500.0}
    modern = {k: v for k, v in new.items() if k not in ("rope_scaling", "rope_theta")}
    modern["rope_parameters"] = STRETCHED
    described = [family.describe({"config.json": c}, "x") for c in (words, modern)]
    assert described[0] == described[1]
    assert described[0].layers[0].mixer.rope_scaling == d.RopeScaling(8.0, 1.0, 4.0, 64)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "gpt_neox", "llama"])
def test_tiny_models_in_transformers_layout_give_the_same_logits_there(family, tmp_path):
    import transformers

    model = drawn(tiny(family))
    save(model, tmp_path, layout="transformers")
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids, logits = expected(loaded.eval())
    assert (model(ids) - logits).abs().max() <= 2e-4 * logits.std()


def refused(family: str, **changes) -> str:
    """Give the sentence with which a tiny model with a changed first mixer is refused."""
    with pytest.raises(CheckpointError) as caught:
        plugins.load("family", family).config(with_layer(tiny(family), 0, **changes))
    return str(caught.value)


def test_what_a_layout_has_no_words_for_is_refused():
    # 4 heads of 9 channels at d_model 24: expand would be 1.5.
    assert "found mixers of 36 channels at d_model 24" in refused("mamba2", head_dim=9)
    assert "found 6 channels and 5 states a head in layer 0" in refused("hybrid_llama", d_state=5)
    assert "found 2 heads of 8 channels" in refused("gpt_neox", n_heads=2, n_kv_heads=2)
    for family in FAMILIES:
        whole = tiny(family)
        bare = tuple(dataclasses.replace(layer, mixer=None) for layer in whole.layers)
        with pytest.raises(CheckpointError, match="expected"):
            plugins.load("family", family).config(dataclasses.replace(whole, layers=bare))


def test_heads_whose_channels_make_up_a_multiple_of_d_model_fit_mamba_ssm():
    layers = (dataclasses.replace(tiny("mamba2").layers[0]),) * 2
    half = dataclasses.replace(tiny("mamba2"), layers=layers)
    for i in range(2):
        half = with_layer(half, i, head_dim=6, d_state=7)
    config = plugins.load("family", "mamba2").config(half)["config.json"]
    assert config["ssm_cfg"]["expand"] == 1
    assert isinstance(config["ssm_cfg"]["expand"], int)
    assert again(half) == half


PHI, SMOL = ("phi_mamba", "config.json"), ("smol_mamba", "config.json")
LLAMA, NEOX = ("llama", "config.json"), ("gpt_neox", "config.json")
MAMBA, HYBRID = ("hybrid_llama", "mamba_config.json"), ("hybrid_llama", "config.json")
MALFORMED = [
    (PHI, "Block_0", None, "Block_0: BlockType: found None; expected phi_block"),
    (PHI, "Block_0.CoreType", "modules.mixers.phi_attention", "expected discrete_mamba2"),
    (PHI, "Block_0.core_input.n_v_heads", 5, "n_v_heads: found 5; expected a multiple of 4"),
    (PHI, "Block_0.core_input.d_inner", 25, "d_inner: found 25; expected a multiple of 4"),
    (PHI, "Block_0.core_input.conv_dim", 63, "conv_dim: found 63; expected 64"),
    (PHI, "Block_0.core_input.norm_cls", "rms", "norm_cls, which discrete_mamba2 does not have"),
    (PHI, "Block_0.core_input.activation", "relu", "'identity' or 'silu' or 'swish' only"),
    (PHI, "Block_0.core_input.d_state", "5", "d_state: found '5'; expected a whole number"),
    (PHI, "Block_0.core_input.in_proj.in_proj_out_features", 1, "found 1; expected 92"),
    (PHI, "Block_0.mlp.last_mlp_bias", False, "last_mlp_bias: found False; expected True"),
    (PHI, "MixerModel.input.n_layer", 3, "n_layer: found 3; expected 2, the layers of all blocks"),
    (PHI, "MixerModel.input.lm_head_prenorm", "none", "'layer' or 'rms' only"),
    (PHI, "LanguageModel.input", [], "LanguageModel: input: found list; expected an object"),
    (PHI, "LanguageModel.input.lm_head_bias", False, "found a LayerNorm without bias"),
    (SMOL, "Block_0.block_input.rms_norm_eps", None, "rms_norm_eps: found None; expected a num"),
    (LLAMA, "rope_scaling", {"rope_type": "yarn"}, "rope_type: found 'yarn'; this family"),
    (LLAMA, "rope_scaling", {"type": "llama3"}, "factor: found nothing; expected a number above 0"),
    (LLAMA, "num_key_value_heads", 3, "num_attention_heads: found 4; expected a multiple of 3"),
    (LLAMA, "partial_rotary_factor", 0.5, "partial_rotary_factor: found 0.5; expected 1"),
    (LLAMA, "hidden_act", "gelu", "hidden_act: found 'gelu'"),
    (LLAMA, "attention_bias", "no", "attention_bias: found 'no'; expected true or false"),
    (NEOX, "num_attention_heads", 5, "hidden_size: found 24; expected a multiple of 5"),
    (MAMBA, "ssm_cfg.repeat_kv_before_conv", True, "repeat_kv_before_conv: found True; this"),
    (MAMBA, "ssm_cfg.ngroups", None, "ngroups: found None; expected a whole number"),
    (MAMBA, "ssm_cfg", None, "ssm_cfg: found None; expected an object"),
    (MAMBA, "intermediate_size", 30, "intermediate_size: found 30; expected 28 (as in config.json"),
    (MAMBA, "d_xb", 11, "d_xb: found 11; expected a multiple of 6"),
    (MAMBA, "d_inner", 25, "d_inner: found 25; expected ngroups · d_state, 4 · 6"),
    (MAMBA, "attn_layers", [3], "attn_layers: found [3]; expected a list of layer numbers"),
    (MAMBA, "n_layer", 4, "n_layer: found 4; expected 3 (as in config.json)"),
    (MAMBA, "d_xb_dict", {"0": 6}, "found sizes of layer 0, but none in d_inner_dict, headdim_di"),
    (HYBRID, "mlp_bias", True, "mlp_bias: found True; this family is implemented for False only"),
]


@pytest.mark.parametrize(("where", "path", "value", "sentence"), MALFORMED)
def test_a_malformed_config_is_refused_in_one_sentence(where, path, value, sentence):
    name, file = where
    family = plugins.load("family", name)
    files = copy.deepcopy(family.config(tiny(name)))
    *parents, last = path.split(".")
    place = files[file]
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(CheckpointError) as caught:
        family.describe(files, "folder")
    message = str(caught.value)
    assert message.startswith(f"folder/{file}")
    assert sentence in message
    assert "\n" not in message


def test_sizes_of_a_layer_that_contradict_each_other_are_refused():
    family = plugins.load("family", "hybrid_llama")
    files = family.config(with_layer(tiny("hybrid_llama"), 0, **UNEVEN["hybrid_llama"]))
    files["mamba_config.json"]["conv_dim_dict"]["0"] = 99
    with pytest.raises(CheckpointError, match=r"layer 0: conv_dim: found 99; expected 36"):
        family.describe(files, "x")


def test_weights_of_other_lengths_are_named_with_both_shapes(tmp_path):
    save(drawn(tiny("phi_mamba")), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    core = config["Block_0"]["core_input"]
    config["Block_0"]["core_input"] = {k: core[k] for k in ("n_v_heads", "n_qk_heads")}
    config["Block_0"]["core_input"]["d_state"] = 6
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"in_proj.weight: found \(92, 24\), expected \(100"):
        read(tmp_path)


def test_bounds_of_the_step_survive_json(tmp_path):
    description = tiny("mamba2")
    for i in range(2):
        description = with_layer(description, i, dt_limit=(0.01, 0.5))
    assert again(description) == description
    family = plugins.load("family", "mamba2")
    files = json.loads(json.dumps(family.transformers(tiny("mamba2"))))
    assert family.describe(files, "x").layers[0].mixer.dt_limit == (0.0, math.inf)


def test_describing_a_model_loads_no_torch():
    script = """
import sys
from ssmbench.grid.catalogue import catalogue
described = [known.describe() for known in catalogue().values()]
assert any(described)
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
