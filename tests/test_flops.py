"""FLOPs by formula: against published counts, torch's own counter, and what a model truly runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from surgery_helpers import GQA, MLP, RMS, build, context, of, tokens
from torch.utils.flop_counter import FlopCounterMode

from ssmbench.cli import main
from ssmbench.errors import MethodError
from ssmbench.grid.catalogue import catalogue, find
from ssmbench.methods import simba, utrc
from ssmbench.models import description as d
from ssmbench.models import flops, mixers, token_flops
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest
from ssmbench.models.token_flops import Drop, Step, count, flow
from ssmbench.surgery import facts
from ssmbench.surgery.schedule import counts

RATIOS = (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1)
"""What simba_flops.json calls r: the fraction kept."""

SCAN = d.SelectiveScan(d_inner=48, d_state=4, dt_rank=3)
SSD = d.SSD(4, 6, 8)
LAYERS = {
    "mamba": [d.Layer(SCAN, RMS)] * 5,
    "mamba2": [d.Layer(SSD, RMS)] * 5,
    "hybrid": [
        d.Layer(SSD, RMS, MLP),
        d.Layer(GQA, RMS, MLP),
        d.Layer(SCAN, RMS),
        d.Layer(None, RMS, MLP),
        d.Layer(SSD, RMS, MLP),
    ],
}


def dropping(description: d.Description, ratio: float, **params) -> Drop | None:
    return simba.drops(description, ratio=ratio, params=simba.Params(**params)) if ratio else None


# Published counts.


@pytest.mark.parametrize("head", ["all", "scored"])
def test_the_published_table_comes_out_of_the_published_configurations(shared, head):
    published = json.loads((shared / "spec" / "simba_flops.json").read_text())
    for name, gflops in published[f"gflops_{head}"].items():
        model = find(name).describe()
        for kept, expected in zip(RATIOS, gflops, strict=False):
            found = count(
                model, prompt=published["T"], answer=published["A"], drop=dropping(model, 1 - kept)
            )
            assert found.total(head) == pytest.approx(expected * 1e9, rel=1e-9), (name, kept)


@pytest.mark.parametrize(
    ("name", "kept", "head_all", "head_scored"),
    [
        ("mamba-130m", 1, 264.18729984, 186.95721984),
        ("mamba-2.8b", 0.1, 3013.5242224, 2987.7808624),
        ("mamba2-2.7b", 0.5, 4206.602168, 4077.864888),
        ("pythia-1b", 1, 1970.64012032, 1764.59493632),
    ],
)
def test_rows_of_the_published_table(name, kept, head_all, head_scored):
    model = find(name).describe()
    found = count(model, prompt=1000, answer=10, drop=dropping(model, 1 - kept))
    assert found.total("all") == pytest.approx(1e9 * head_all, rel=1e-9)
    assert found.total("scored") == pytest.approx(1e9 * head_scored, rel=1e-9)


def test_a_forward_pass_is_a_prompt_with_no_answer():
    model = find("hlm-3b").describe()
    assert flops.forward_flops(model, tokens=77) == count(model, prompt=77).total("all")
    parts = count(model, prompt=70, answer=7)
    assert flops.forward_flops(model, tokens=77, scored=7) == parts.total("scored")


# Products: torch's own counter.


@pytest.fixture
def only_products(monkeypatch):
    """Have the scans do nothing, and the convolution where torch's counter sees it."""

    def scan(x, *_, **__):
        return x, None

    def conv(x, weight, bias, tail=None):
        y = F.conv1d(x.mT, weight[:, None], bias, groups=len(weight), padding=weight.shape[1] - 1)
        return y.mT[:, : x.shape[1]]

    monkeypatch.setattr(mixers, "selective_scan", scan)
    monkeypatch.setattr(mixers, "ssd", scan)
    monkeypatch.setattr(mixers, "causal_conv", conv)


def products(description: d.Description, steps: list[Step], *, answer: int = 0) -> int:
    """Count the products of the layers, and of the head on all that is left."""
    total = (steps[-1].staying + answer) * flops.head_flops(description)
    for layer, step in zip(description.layers, steps, strict=True):
        cost = flops.layer_products(description.d_model, layer)
        total += cost.over(step.entering + answer, step.staying + answer)
    return total


@pytest.mark.parametrize(
    "name",
    [
        "mamba-130m",
        "mamba2-130m",
        "phi-mamba-1.5b",
        "smol2-mamba-1.9b",
        "hlm-3b",
        "llama3.2-3b-instruct",
        "smollm2-1.7b",
        "pythia-160m",
    ],
)
def test_products_and_convolutions_are_those_that_torch_counts(name, only_products):
    description = find(name).describe()
    with torch.device("meta"):
        model = Decoder(description)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 300, dtype=torch.long))
    # The last convolution inputs reach over the end, which conv1d computes and we cut off.
    over = sum(
        2 * m.d_conv * (m.d_conv - 1) * (m.d_xbc if isinstance(m, d.SSD) else m.d_inner)
        for m in (layer.mixer for layer in description.layers)
        if isinstance(m, d.SSD | d.SelectiveScan)
    )
    expected = products(description, [Step(300, 300)] * len(description.layers))
    assert counter.get_total_flops() - over == pytest.approx(expected, rel=1e-3)
    assert expected < flops.forward_flops(description, tokens=300) < 1.1 * expected


# Dropped tokens: what a model truly runs.


def forest(prompt: int, answer: int) -> Forest:
    rows = tokens(1, prompt + answer)[0].tolist()
    return replace(Forest.fork([rows[:prompt]], [rows[prompt:]], [0]), prompted=True)


def projections(description: d.Description) -> list[flops.Cost]:
    """Give each layer's products without convolution and pairs of positions."""
    costs = []
    for layer in description.layers:
        cost = flops.layer_products(description.d_model, layer)._replace(pair=0)
        m = layer.mixer
        if isinstance(m, d.SSD | d.SelectiveScan):
            width = m.d_xbc if isinstance(m, d.SSD) else m.d_inner
            cost = cost._replace(enter=cost.enter - 2 * m.d_conv * width)
        costs.append(cost)
    return costs


@pytest.mark.parametrize(
    ("method", "params"),
    [
        (simba, {}),
        (simba, {"site": "before_scan"}),
        (simba, {"chunk": 11}),
        (simba, {"every": 2, "schedule": "geometric"}),
        (utrc, {}),
    ],
)
@pytest.mark.parametrize("name", LAYERS)
def test_projections_run_over_the_tokens_that_are_counted(name, method, params):
    model = build(of("mamba2", *LAYERS[name]))
    given = method.Params(**params)
    method.compress(model, ratio=0.7, params=given, context=context(model.description))
    run = 0

    def seen(module, inputs, _):
        nonlocal run
        run += 2 * inputs[0].numel() // inputs[0].shape[-1] * module.weight.numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(seen)
    model.hidden(forest(30, 4))  # one prompt: nothing is padded
    steps = list(flow(model.description, 30, model.reducer.drop))
    expected = (
        cost.over(step.entering + 4, step.staying + 4)
        for cost, step in zip(projections(model.description), steps, strict=True)
    )
    assert run == sum(expected)
    assert steps[-1].staying < 20


def test_what_enters_each_layer_follows_the_schedule_and_skips_layers_that_cannot_drop():
    halved = Drop(lambda n: tuple(n - 2 * i for i in range(5)))
    ranked = [(step.entering, step.staying, step.ranked) for step in flow(HYBRID, 10, halved)]
    assert ranked == [(10, 10, (10,)), (8, 8, ()), (8, 8, (8,)), (4, 4, ()), (4, 4, ())]
    before = halved._replace(before_scan=True)
    ranked = [(step.entering, step.staying, step.ranked) for step in flow(HYBRID, 10, before)]
    assert ranked == [(10, 10, ()), (10, 10, ()), (10, 6, (10,)), (6, 6, ()), (6, 2, (6,))]
    chunked = halved._replace(chunk=9)
    entering = [(step.entering, step.ranked) for step in flow(HYBRID, 18, chunked)]
    assert entering[:3] == [(18, (9, 9)), (14, ()), (14, (7, 7))]


HYBRID = of("hybrid_llama", *LAYERS["hybrid"])


def test_parts_add_up_by_hand():
    """Two layers of attention alone: Q = 4, D = 2, V = 3; nothing drops, so nothing is ranked."""
    mixer = d.Attention(n_heads=2, n_kv_heads=1, head_dim=2, rotary_dim=2, bias=False)
    model = d.Description("llama", 2, 3, (d.Layer(mixer, d.Norm()),) * 2, d.Norm())
    layer = 5 * (2 * 2 * (4 + 2 * 2) + 2 * 2 * 4 + 5 * 2) + 25 * (4 * 4 + 5 * 2)
    drop = Drop(lambda n: (n, 1), token_flops.influence)
    assert count(model, prompt=3, answer=2) == (2 * layer, 0, 5 * 8, 5 * 12, 2 * 12, 5)
    assert count(model, prompt=3, answer=2, drop=drop) == count(model, prompt=3, answer=2)


def test_answers_and_the_last_prompt_tokens_are_never_dropped():
    model = find("mamba-130m").describe()
    for prompt in (1, 2, 7):
        drop = dropping(model, 0.999999)
        assert count(model, prompt=prompt, answer=5, drop=drop).left == 5 + 1


def test_scores_count_where_tokens_go_and_nowhere_else():
    model, mixer = of("mamba", *LAYERS["mamba"]), SCAN
    every = dropping(model, 0.8, every=2)
    per_token = 4 * 48 * 4 + 5 * 48 + 4
    # 30 tokens until the third layer has 18, until the fifth has 6.
    assert count(model, prompt=30, drop=every).scores == (30 + 18) * per_token
    assert count(model, prompt=30, drop=dropping(model, 0.8, criterion="random")).scores == 0
    assert count(model, prompt=1, drop=every).scores == 0
    assert token_flops.influence(mixer, 1) == per_token


@pytest.mark.parametrize(
    ("mixer", "influence", "norm"),
    [
        (d.SelectiveScan(8, 4, 2), 4 * 8 * 4 + 5 * 8 + 4, 16),
        (d.SSD(4, 6, 8, n_groups=2), 2 * 2 * 8 + 5 * 4 + 2 * 24, 8),
        # C is each head's own, and so are the products of C and B.
        (d.SSD(4, 6, 8, n_groups=2, shared="xb"), 2 * 4 * 8 + 5 * 4 + 2 * 24, 8),
    ],
)
def test_what_ranking_costs(mixer, influence, norm):
    assert token_flops.influence(mixer, 3) == 3 * influence
    assert token_flops.step_norm(mixer, 3) == 3 * norm
    assert token_flops.deletion(mixer, 3) > 3 * influence
    assert token_flops.clipped_sum(mixer, 3, d_model=5) == 30
    assert token_flops.free(mixer, 3) == 0


def test_dropping_before_the_scan_projects_the_tokens_that_go_as_well():
    model = of("mamba2", *LAYERS["mamba2"])
    after, before = (
        count(model, prompt=30, drop=dropping(model, 0.8, site=site))
        for site in ("after_mixer", "before_scan")
    )
    cost = flops.layer_cost(model.d_model, model.layers[0])
    # 6 tokens go at each layer but the first.
    assert before.layers - after.layers == 4 * 6 * cost.enter
    assert before.left == after.left
    assert before.scores == after.scores


def test_a_cell_states_the_prefill_of_the_tokens_that_it_keeps():
    model = build(of("mamba2", *LAYERS["mamba2"]))
    dense = facts.measure(model, model.description)
    assert dense["flops_per_token"] == dense["flops_per_token_dense"]
    simba.compress(model, ratio=0.9, params=simba.Params(), context=context(model.description))
    found = facts.measure(model, model.description)
    expected = count(model.description, prompt=512, drop=dropping(model.description, 0.9))
    assert found["flops_per_token"] == expected.total("all") / 512
    assert 0.4 < found["flops_per_token"] / found["flops_per_token_dense"] < 0.6
    assert found["flops_per_token_dense"] == dense["flops_per_token"]


# The command.


@pytest.fixture
def ssmbench(capsys):
    """Run `ssmbench flops`; give its exit code, stdout and stderr."""

    def run(*arguments: str):
        code = main(["flops", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_command_shows_dense_beside_reduced(ssmbench):
    code, out, _ = ssmbench("mamba-2.8b", "--method", "simba", "--ratio", "0.9")
    assert code == 0
    lines = {line[:25].strip(): line[25:].split() for line in out.splitlines()}
    assert lines["total, head on all"] == ["5,621.684", "3,013.524", "0.5361"]
    assert lines["total, head on scored"] == ["5,364.250", "2,987.781", "0.5570"]
    assert "1000 enter the first layer, 100 the last, 55.0 % on average" in out


def test_the_command_gives_json_of_whole_numbers(ssmbench):
    arguments = ("--method", "simba", "--ratio", "0.5", "--param", "schedule=geometric")
    code, out, _ = ssmbench("mamba2-370m", *arguments, "--prompt", "64", "--answer", "3", "--json")
    found = json.loads(out)
    assert code == 0
    model = find("mamba2-370m").describe()
    expected = count(model, prompt=64, answer=3, drop=dropping(model, 0.5, schedule="geometric"))
    assert found["reduced"]["total_all"] == expected.total("all")
    assert found["reduced"]["scores"] == expected.scores
    assert found["dense"]["total_scored"] == count(model, prompt=64, answer=3).total("scored")
    assert found["dense"]["per_token_all"] == found["dense"]["total_all"] / 67
    assert found["prompt_tokens"] == list(counts(64, 48, ratio=0.5, shape="geometric"))


def test_the_command_counts_every_model_of_the_catalogue(ssmbench):
    for name in catalogue():
        code, out, _ = ssmbench(name, "--json")
        assert code == 0
        assert json.loads(out)["reduced"] is None


def test_the_command_needs_a_folders_configuration_alone(ssmbench, tmp_path):
    config = {"d_model": 64, "n_layer": 2, "vocab_size": 96, "ssm_cfg": {"layer": "Mamba2"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, _ = ssmbench(str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)["family"] == "mamba2"


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("owner/unknown",), 2, "found no such folder, nor a hub id of the catalogue"),
        (("mamba-2.9b",), 2, "Did you mean 'mamba-2.8b'?"),
        (("mamba-130m", "--prompt", "0"), 2, "--prompt 0: expected 1 or more."),
        (("mamba-130m", "--answer", "-1"), 2, "--answer -1: expected 0 or more."),
        (("mamba-130m", "--ratio", "0.5"), 2, "'dense', which removes nothing"),
        (("mamba-130m", "--method", "simba"), 2, "ratio: found none for 'simba'"),
        (("mamba-130m", "--method", "simba", "--ratio", "1"), 2, "expected the fraction removed"),
        (("mamba-130m", "--method", "wanda", "--ratio", "0.5"), 2, "Known: simba, utrc."),
        (("mamba-130m", "--method", "state+simba", "--ratio", "0.5"), 2, "found 'state' before"),
        (("pythia-1b", "--method", "simba", "--ratio", "0.5"), 1, "found no SSM mixer"),
    ],
)
def test_the_command_says_what_is_wrong(ssmbench, arguments, code, sentence):
    found, out, err = ssmbench(*arguments)
    assert (found, out) == (code, "")
    assert sentence in err


def test_weights_that_are_pruned_before_cost_the_same(ssmbench):
    chain = ("--param", "wanda.ratio=0.5", "--ratio", "0.9", "--json")
    alone = json.loads(ssmbench("mamba-130m", "--method", "simba", "--ratio", "0.9", "--json")[1])
    chained = json.loads(ssmbench("mamba-130m", "--method", "wanda+simba", *chain)[1])
    assert chained["reduced"] == alone["reduced"]


def test_a_method_cannot_drop_tokens_of_a_model_that_has_no_scan():
    with pytest.raises(MethodError, match="found no SSM mixer"):
        utrc.drops(find("pythia-1b").describe(), ratio=0.5, params=utrc.Params())


def test_the_command_loads_no_torch():
    code = (
        "import sys; from ssmbench.cli import main; "
        "main(['flops', 'mamba-130m', '--method', 'simba', '--ratio', '0.5', '--json']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
