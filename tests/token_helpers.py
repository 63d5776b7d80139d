"""What the tests of token dropping share: deep models, a recorder, a program without the seam."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from surgery_helpers import of
from torch import Tensor

from ssmbench import plugins
from ssmbench.methods import simba
from ssmbench.models import description as d
from ssmbench.models.decoder import Decoder
from ssmbench.models.forest import Forest, Stage
from ssmbench.models.initialise import initialise
from ssmbench.models.reduction import Watch
from ssmbench.surgery.context import MethodContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssmbench.models.reduction import Shown

RMS, MLP = d.Norm(), d.MLP("swiglu", 40, bias=False)
XB = d.SSD(12, 6, 8, n_groups=4, shared="xb", norm_groups=12)
GROUPED = d.SSD(8, 6, 4, n_groups=4, norm_groups=4, in_bias=True, out_bias=True)
GQA = d.Attention(n_heads=8, n_kv_heads=4, head_dim=6, rotary_dim=4, bias=True)
HYBRID = tuple(d.Layer(m, RMS, MLP) for m in (XB, GQA, XB, GQA, GQA, XB))


def deep(family: str) -> d.Description:
    """Give a family's tiny model, six layers deep."""
    tiny = plugins.load("family", family).tiny()
    return replace(tiny, layers=(tiny.layers * 6)[:6])


MODELS = {
    **{name: deep(name) for name in ("mamba", "mamba2", "phi_mamba", "smol_mamba")},
    "grouped": of("mamba2", *[d.Layer(GROUPED, RMS)] * 5),
    "hybrid": of("hybrid_llama", *HYBRID),
}


def build(description: d.Description, *, seed: int = 0) -> Decoder:
    """Give a model in which every layer matters, and no two tokens score alike."""
    model = Decoder(description)
    initialise(model, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.embedding.weight.mul_(50)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.3 if parameter.dim() == 1 else 0.1))
    return model.eval().requires_grad_(False)


def reduce(model: Decoder, ratio: float = 0.7, *, seed: int = 0, **params) -> Decoder:
    """Let a model drop tokens, and no others than these."""
    model.reducer = None
    context = MethodContext(seed, None)
    simba.compress(model, ratio=ratio, params=simba.Params(**params), context=context)
    return model


def drawn(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 61, (n,), generator=generator).tolist() for n in lengths]


def prompts(*rows: Sequence[int]) -> Forest:
    return replace(Forest.ragged(rows), prompted=True)


def answered(
    rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], parents: Sequence[int]
) -> Forest:
    return replace(Forest.fork(rows, answers, parents), prompted=True)


def left(hidden: Tensor) -> list[int]:
    """Give the indices of the tokens that were not dropped."""
    alive = ~hidden.isnan()
    assert torch.equal(alive.any(1), alive.all(1))
    return alive.any(1).nonzero()[:, 0].tolist()


def record(model: Decoder) -> list[tuple[int, list[list[int]]]]:
    """Note, of each choice to come, the layer and where each row's tokens stood."""
    seen: list[tuple[int, list[list[int]]]] = []
    reducer, score = model.reducer, model.reducer.score

    def scored(shown, turn):
        lengths = shown.stage.lengths
        places = shown.stage.places
        seen.append((turn.layer, [p[:n].tolist() for p, n in zip(places, lengths, strict=True)]))
        return score(shown, turn)

    reducer.score = scored
    return seen


def written_out(
    model: Decoder,
    ids: Sequence[int],
    counts: Sequence[int],
    score: Callable[[Shown], Tensor],
) -> tuple[Tensor, list[int]]:
    """Run one prompt block by block, each over a row of the tokens that are left.

    Returns:
        The hidden states that are left, after the final norm, and where they stood.
    """
    h, stood = model.embedding.weight[torch.tensor(ids)], list(range(len(ids)))
    for i, block in enumerate(model.layers):
        stage = Stage((len(stood),), 0, None, h.device, torch.tensor(stood), (len(ids),))
        forest = Forest(torch.tensor(ids)[stood], (stage,))
        noted = []

        def keep_all(shown, noted=noted):
            noted.append(shown)
            return torch.ones(1, len(noted[0].x[0]), dtype=torch.bool)

        h, _ = block(h, forest, None, Watch(forest, keep_all))
        wanted = counts[i + 1] if i + 1 < len(counts) else len(stood)
        if noted and wanted < len(stood):
            scores = score(noted[0])[0].tolist()
            others = sorted(range(len(stood) - 1), key=lambda t: (scores[t], t), reverse=True)
            kept = sorted([*others[: wanted - 1], len(stood) - 1])
            h, stood = h[kept], [stood[t] for t in kept]
    return model.norm_f(h), stood
