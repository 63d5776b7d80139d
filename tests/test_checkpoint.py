"""Reading checkpoints: goldens, transformers' own classes, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from ssmbench.errors import CheckpointError
from ssmbench.models import source
from ssmbench.models.checkpoint import load, read, save
from ssmbench.models.decoder import Decoder
from ssmbench.models.initialise import initialise

GOLDEN = ["mamba1_hf", "mamba1_orig", "mamba2_hf", "mamba2_orig", "mamba2_orig_hybrid_mlp"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_logits_are_reproduced(shared, name):
    folder = shared / "golden" / name
    io = load_file(folder / "io.safetensors")
    logits = load(str(folder))(io["input_ids"])
    # An independent forward pass agrees within 5.3e-5 of the logits' deviation.
    assert (logits - io["logits"]).abs().max() <= 2e-4 * io["logits"].std()
    assert torch.equal(logits.argmax(-1), io["logits"].argmax(-1))


def huggingface(kind: str):
    import transformers

    torch.manual_seed(0)
    match kind:
        case "mamba":
            config = transformers.MambaConfig(
                vocab_size=61, hidden_size=24, state_size=5, num_hidden_layers=2
            )
            model = transformers.MambaForCausalLM(config)
        case "mamba2":
            config = transformers.Mamba2Config(
                vocab_size=61,
                hidden_size=24,
                state_size=10,
                num_hidden_layers=2,
                head_dim=12,
                num_heads=4,
                n_groups=2,
                chunk_size=16,
            )
            model = transformers.Mamba2ForCausalLM(config)
        case "gpt_neox":
            config = transformers.GPTNeoXConfig(
                vocab_size=61,
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=3,
                intermediate_size=40,
            )
            model = transformers.GPTNeoXForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module", params=["mamba", "mamba2", "gpt_neox"])
def pair(request, tmp_path_factory):
    """A transformers model and ours, read from what it saved."""
    theirs = huggingface(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, load(str(folder)), folder


def test_transformers_logits_are_reproduced(pair):
    theirs, ours, _ = pair
    ids = torch.randint(0, 61, (2, 37), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(ids).logits
    assert (ours(ids) - expected).abs().max() <= 2e-4 * expected.std()


def test_torch_files_and_shards_are_read(pair, tmp_path):
    theirs, ours, folder = pair
    ids = torch.arange(20)[None]
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    shutil.copy(folder / "config.json", tmp_path)
    assert_close(load(str(tmp_path))(ids), ours(ids))
    shards = tmp_path / "shards"
    theirs.save_pretrained(shards, max_shard_size="4KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    assert_close(load(str(shards))(ids), ours(ids))


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_a_saved_model_is_read_back_bit_for_bit(family, tmp_path):
    from ssmbench import plugins

    model = Decoder(plugins.load("family", family).tiny())
    initialise(model, seed=3)
    save(model, tmp_path)
    again = read(tmp_path)
    assert again.description == model.description
    ids = torch.arange(30)[None]
    assert torch.equal(again(ids), model(ids))


@pytest.fixture
def folder(tmp_path):
    from ssmbench import plugins

    model = Decoder(plugins.load("family", "mamba2").tiny())
    initialise(model, seed=0)
    save(model, tmp_path)
    return tmp_path


def edit(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_a_missing_an_extra_and_a_wrong_tensor_are_all_named(folder):
    def change(weights):
        del weights["backbone.layers.1.mixer.D"]
        weights["backbone.layers.0.mixer.surplus"] = torch.zeros(3)
        weights["backbone.norm_f.weight"] = torch.zeros(7)

    edit(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load(str(folder))
    message = str(caught.value)
    assert "layers.1.mixer.D: missing" in message
    assert "backbone.layers.0.mixer.surplus: a tensor that mamba2 does not have" in message
    assert "norm_f.weight: found (7,), expected (24,)" in message


def test_an_unknown_family_lists_what_was_looked_for(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "rwkv"}')
    with pytest.raises(CheckpointError, match=r"(?s)rwkv.*gpt_neox: config.json.*mamba2: config"):
        source.recognise(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "found no config.json"),
        ("{", "cannot be read as JSON"),
        ("[1]", "found list; expected an object"),
    ],
)
def test_a_folder_that_is_no_model_says_why(tmp_path, content, expected):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=expected):
        source.recognise(tmp_path)


def test_a_config_that_asks_for_other_arithmetic_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["ssm_cfg"]["norm_before_gate"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="norm_before_gate: found True"):
        load(str(folder))


def test_a_pickled_object_is_not_executed(folder):
    class Trap:
        def __reduce__(self):
            return (print, ("executed",))

    (folder / "model.safetensors").unlink()
    torch.save({"backbone.norm_f.weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises((CheckpointError, Exception), match=r"(?i)weights"):
        load(str(folder))


def test_the_fingerprint_follows_the_weights(folder):
    before = source.fingerprint(folder)
    assert source.fingerprint(folder) == before
    edit(folder, lambda w: w["backbone.norm_f.weight"].add_(1))
    assert source.fingerprint(folder) != before


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_is_read_whether_zipped_or_not_and_its_tensors_outlive_it(folder, zipped):
    expected = load(str(folder))(torch.arange(9)[None])
    path = folder / "pytorch_model.bin"
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()
    found = load(str(folder))
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(found(torch.arange(9)[None]), expected)


def test_a_safetensors_files_tensors_outlive_it(folder):
    ids = torch.arange(9)[None]
    expected, found = load(str(folder))(ids), load(str(folder))
    path = folder / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(found(ids), expected)
