"""Models for surgery, and mixers written a second time: head by head, with no coupling table."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ssmbench import plugins
from ssmbench.models import description as d
from ssmbench.models.attention import rotate
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest
from ssmbench.models.initialise import initialise
from ssmbench.surgery.context import MethodContext

D_MODEL, VOCABULARY = 24, 61

RMS, LAYER = d.Norm(), d.Norm("layer")
MLP = d.MLP("swiglu", 40, bias=False)
GQA = d.Attention(n_heads=8, n_kv_heads=4, head_dim=6, rotary_dim=4, bias=True)


def of(family: str, *layers: d.Layer) -> d.Description:
    return d.Description(family, D_MODEL, VOCABULARY, layers, RMS)


# What the families' own tiny models leave out: P ≠ N everywhere, and no two lengths alike.
GROUPED = d.SSD(8, 6, 4, n_groups=4, norm_groups=4, in_bias=True, out_bias=True)
ONE_GROUP = d.SSD(4, 6, 8, dt_limit=(0.01, 0.5))
HYBRID = d.SSD(12, 6, 8, n_groups=4, shared="xb", norm_groups=12)
MERGED_HYBRID = d.SSD(12, 6, 4, n_groups=2, shared="xb", norm_groups=12)
MODELS = {
    **{name: plugins.load("family", name).tiny() for name in plugins.names("family")},
    "grouped": of("mamba2", d.Layer(GROUPED, RMS), d.Layer(GROUPED, RMS)),
    "one_group": of("mamba2", d.Layer(ONE_GROUP, RMS), d.Layer(ONE_GROUP, RMS)),
    "hybrid": of("hybrid_llama", d.Layer(HYBRID, RMS, MLP), d.Layer(GQA, RMS, MLP)),
    "merged_hybrid": of("hybrid_llama", d.Layer(MERGED_HYBRID, RMS, MLP)),
    "uneven": of("mamba2", d.Layer(ONE_GROUP, RMS), d.Layer(None, RMS), d.Layer(GROUPED, RMS)),
}


def build(description: d.Description, *, seed: int = 0) -> Decoder:
    """Give a model in which no parameter is zero, one, or like its neighbour."""
    model = Decoder(description)
    initialise(model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.3 if parameter.dim() == 1 else 0.05))
    return model.eval().requires_grad_(False)


def tokens(b: int, length: int, *, vocabulary: int = VOCABULARY, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (b, length), generator=generator)


def context(description: d.Description, *, seed: int = 0, **changes) -> MethodContext:
    windows = tokens(3, 12, vocabulary=description.vocab_size, seed=5)
    return MethodContext(seed=seed, calibration=windows, **changes)


def assert_same(found: Tensor, expected: Tensor, *, within: float = 1e-5) -> None:
    """Compare in units of the expected values' spread: float32 rounds at 1e-7 of it a sum."""
    assert found.shape == expected.shape
    error = float((found.double() - expected.double()).abs().max())
    assert error <= within * float(expected.double().std()), error


def mixed(model: Decoder, layer: int, u: Tensor) -> Tensor:
    """Run one mixer on one row of inputs (length, d_model)."""
    forest = Forest.batch(torch.zeros(1, len(u), dtype=torch.long))
    return model.layers[layer].mixer(u, forest, None)[0]


class Alive:
    """Which heads, channels and states of a mixer count: bool (H,), (H, P) and (G, N)."""

    def __init__(self, sizes: d.Mixer) -> None:
        heads = 1 if isinstance(sizes, d.SelectiveScan) else sizes.n_heads
        channels = sizes.d_inner if isinstance(sizes, d.SelectiveScan) else sizes.head_dim
        groups = sizes.n_groups if isinstance(sizes, d.SSD) else 1
        self.channels = torch.ones(heads, channels, dtype=torch.bool)
        states = 0 if isinstance(sizes, d.Attention) else sizes.d_state
        self.states = torch.ones(groups, states, dtype=torch.bool)


def naive(sizes: d.Mixer, weights: dict[str, Tensor], u: Tensor, alive: Alive) -> Tensor:
    """Run a mixer in float64 with what is not alive left out."""
    weights = {name: t.double() for name, t in weights.items()}
    run = {d.SSD: _ssd, d.SelectiveScan: _scan, d.Attention: _attend}[type(sizes)]
    return run(sizes, weights, u.double(), alive)


def _conv(weights: dict[str, Tensor], lanes: Tensor, channel: int) -> Tensor:
    """Convolve lanes (length, c) with the taps of channels `channel` and following."""
    taps = weights["conv1d.weight"][channel : channel + lanes.shape[1], 0]
    k = taps.shape[1]
    padded = torch.cat([torch.zeros(k - 1, lanes.shape[1], dtype=lanes.dtype), lanes])
    y = sum(padded[j : j + len(lanes)] * taps[:, j] for j in range(k))
    if "conv1d.bias" in weights:
        y = y + weights["conv1d.bias"][channel : channel + lanes.shape[1]]
    return y


def _linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _ssd(s: d.SSD, weights: dict[str, Tensor], u: Tensor, alive: Alive) -> Tensor:
    rows = _linear(weights, "in_proj", u)
    activate = F.silu if s.conv_activation == "silu" else (lambda t: t)
    E, P, N = s.n_heads * s.head_dim, s.head_dim, s.d_state
    heads_per_group = s.n_heads // s.n_groups
    n_x = s.n_heads if s.shared == "bc" else s.n_groups
    n_c = s.n_groups if s.shared == "bc" else s.n_heads
    at_b = n_x * P
    at_c = at_b + s.n_groups * N
    at_dt = E + at_c + n_c * N

    def lanes(channel: int, width: int) -> Tensor:
        return activate(_conv(weights, rows[:, E + channel : E + channel + width], channel))

    outputs = []
    for h in range(s.n_heads):
        g = h // heads_per_group
        x = lanes((h if s.shared == "bc" else g) * P, P)
        B = lanes(at_b + g * N, N) * alive.states[g]
        C = lanes(at_c + (g if s.shared == "bc" else h) * N, N)
        dt = rows[:, at_dt + h]
        if s.discrete:
            decay, step = torch.sigmoid(-dt), torch.ones_like(dt)
        else:
            step = F.softplus(dt + weights["dt_bias"][h]).clamp(*s.dt_limit)
            decay = torch.exp(-step * torch.exp(weights["A_log"][h]))
        S, y = torch.zeros(P, N, dtype=u.dtype), []
        for t in range(len(u)):
            S = decay[t] * S + step[t] * torch.outer(x[t], B[t])
            y.append(S @ C[t] + weights["D"][h] * x[t])
        z = rows[:, h * P : (h + 1) * P]
        if s.z_bias:
            z = z + weights["z_bias"][h * P : (h + 1) * P]
        outputs.append(torch.stack(y) * F.silu(z) * alive.channels[h])
    y = torch.cat(outputs, 1)
    if s.norm_groups:
        width = E // s.norm_groups
        parts = [y[:, i : i + width] for i in range(0, E, width)]
        parts = [p / torch.sqrt(p.square().mean(1, keepdim=True) + s.norm_eps) for p in parts]
        y = torch.cat(parts, 1) * weights["norm.weight"]
    return _linear(weights, "out_proj", y)


def _scan(s: d.SelectiveScan, weights: dict[str, Tensor], u: Tensor, alive: Alive) -> Tensor:
    rows = _linear(weights, "in_proj", u)
    E, N, R = s.d_inner, s.d_state, s.dt_rank
    x = F.silu(_conv(weights, rows[:, :E], 0)) * alive.channels[0]
    dbc = x @ weights["x_proj.weight"].T
    dt = F.softplus(_linear(weights, "dt_proj", dbc[:, :R]))
    B, C = dbc[:, R : R + N] * alive.states[0], dbc[:, R + N :]
    A = -torch.exp(weights["A_log"])
    S, y = torch.zeros(E, N, dtype=u.dtype), []
    for t in range(len(u)):
        S = torch.exp(dt[t, :, None] * A) * S + torch.outer(dt[t] * x[t], B[t])
        y.append(S @ C[t] + weights["D"] * x[t])
    return _linear(weights, "out_proj", torch.stack(y) * F.silu(rows[:, E:]))


def _attend(s: d.Attention, weights: dict[str, Tensor], u: Tensor, alive: Alive) -> Tensor:
    P, length = s.head_dim, len(u)
    q, k, v = (_linear(weights, f"{name}_proj", u) for name in "qkv")
    future = torch.ones(length, length, dtype=torch.bool).triu(1)

    def head(rows: Tensor, i: int) -> Tensor:
        return rows[:, i * P : (i + 1) * P]

    def turned(rows: Tensor, i: int) -> Tensor:
        lane = head(rows, i)[None, :, None].float()
        return rotate(lane, torch.arange(length)[None], s)[0, :, 0].double()

    outputs = []
    for h in range(s.n_heads):
        g = h // (s.n_heads // s.n_kv_heads)
        scores = turned(q, h) @ turned(k, g).T / math.sqrt(P)
        weight = scores.masked_fill(future, -math.inf).softmax(1)
        outputs.append(weight @ head(v, g) * alive.channels[h])
    return _linear(weights, "o_proj", torch.cat(outputs, 1))


def equalise(model: Decoder, layer: int, axis: str, size: int) -> None:
    """Give each `size` consecutive groups or heads the mean of what they have, in place.

    out_proj is left alone: merging has to add its columns up.
    """
    mixer, s = model.layers[layer].mixer, model.description.layers[layer].mixer
    parameters = dict(mixer.named_parameters())
    if isinstance(s, d.Attention):
        n, names = (s.n_kv_heads, "kv") if axis == "g" else (s.n_heads, "q")
        lanes = [(0, s.head_dim, n)]
        found = {f"{x}_proj.{kind}": lanes for x in names for kind in ("weight", "bias")}
    else:
        found = _ssd_lanes(s, axis)
    with torch.no_grad():
        for name, places in found.items():
            for start, width, n in places if name in parameters else ():
                _average(parameters[name], start, width, n, size)


def _ssd_lanes(s: d.SSD, axis: str) -> dict[str, list[tuple[int, int, int]]]:
    """Say where an axis's heads lie: parameter → (first row, rows of each, how many)."""
    E, P, N, H, G = s.n_heads * s.head_dim, s.head_dim, s.d_state, s.n_heads, s.n_groups
    shares_b_and_c = s.shared == "bc"
    x = (0, P, H if shares_b_and_c else G)
    B = (x[1] * x[2], N, G)
    C = (B[0] + N * G, N, G if shares_b_and_c else H)
    dt = (C[0] + C[1] * C[2], 1, H)
    if axis == "g":
        conv, rest = ([B, C] if shares_b_and_c else [x, B]), []
    else:
        conv, rest = ([x] if shares_b_and_c else [C]), [dt]
    rows = [(E + start, width, n) for start, width, n in (*conv, *rest)]
    found = {"conv1d.weight": conv, "conv1d.bias": conv}
    if axis == "r":
        rows.append((0, P, H))
        found |= {name: [(0, P, H)] for name in ("z_bias", "norm.weight")}
        found |= {name: [(0, 1, H)] for name in ("dt_bias", "A_log", "D")}
    return {**found, "in_proj.weight": rows, "in_proj.bias": rows}


def _average(parameter: Tensor, start: int, width: int, n: int, size: int) -> None:
    for first in range(0, n, size):
        heads = [parameter[start + (first + i) * width :][:width] for i in range(size)]
        mean = torch.stack(heads).mean(0)
        for head in heads:
            head.copy_(mean)
