"""FLOPs of one input, a prompt and an answer, where prompt tokens may be dropped; no torch.

Layer l sees n_l prompt tokens and all M of the answer, which are never dropped:

    F = Σ_l (n_l + M) · (enter_l + stay_l) + (n_l + M)² · pair_l
      + Σ_{l drops} n_l · score_l + (n_L + M) · norm + heads · head

with the costs of `models/flops.py`, n_L what the last layer is left with, and heads = n_L + M
("all": every position that there is) or M ("scored": the answer alone). Only a layer with an SSM
mixer drops any; what the schedule asks elsewhere happens at the next that can. Where tokens go
before the scan, norm, input projection and convolution run over the tokens that enter, all that
follows over those that stay: (n_{l−1} + M) · enter_l + (n_l + M) · stay_l, with n_{l−1} · score_l.
A prompt that runs in chunks has n_l of all its chunks together.

Sorting and gathering are no FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

from ssmbench.models import description as d
from ssmbench.models import flops

if TYPE_CHECKING:
    from collections.abc import Iterator

Head = Literal["all", "scored"]

Ranking = Callable[[d.Mixer, int], int]
"""Called with (the mixer of the layer, tokens to rank): FLOPs."""


def free(mixer: d.Mixer, n: int) -> int:  # noqa: ARG001 - a scorer that looks at nothing
    """Count a ranking that needs no arithmetic, such as the tokens' places."""
    return 0


class Drop(NamedTuple):
    """How a method drops prompt tokens, as far as the count goes.

    Attributes:
        counts: from a prompt's tokens to how many each layer is to process.
        score: the FLOPs of ranking tokens.
        before_scan: a layer's tokens go before its scan, not after the layer.
        chunk: tokens of a prompt that are ranked among themselves and fall by the schedule for so
            many; None for the whole prompt.
    """

    counts: Callable[[int], tuple[int, ...]]
    score: Ranking = free
    before_scan: bool = False
    chunk: int | None = None


class Step(NamedTuple):
    """Prompt tokens of one layer: that enter it, that go on from its scan, that are ranked.

    Those of each chunk are ranked by themselves.
    """

    entering: int
    staying: int
    ranked: tuple[int, ...] = ()


class Count(NamedTuple):
    """FLOPs of one input, in parts.

    Attributes:
        layers: all blocks.
        scores: ranking tokens.
        norm: the final norm.
        head_all: the head on every position that reaches it.
        head_scored: the head on the answer's positions alone.
        left: positions that reach the head.
    """

    layers: int
    scores: int
    norm: int
    head_all: int
    head_scored: int
    left: int

    def total(self, head: Head) -> int:
        """Add the parts, with the head as asked."""
        heads = self.head_all if head == "all" else self.head_scored
        return self.layers + self.scores + self.norm + heads


def count(
    description: d.Description, *, prompt: int, answer: int = 0, drop: Drop | None = None
) -> Count:
    """Count one forward pass over a prompt and an answer.

    Args:
        description: the model.
        prompt: its tokens.
        answer: tokens after it, none of which is dropped.
        drop: how prompt tokens go; None is the dense model.
    """
    steps = list(flow(description, prompt, drop))
    layers = scores = 0
    for layer, step in zip(description.layers, steps, strict=True):
        cost = flops.layer_cost(description.d_model, layer)
        layers += cost.over(step.entering + answer, step.staying + answer)
        if drop is not None and layer.mixer is not None:
            scores += sum(drop.score(layer.mixer, n) for n in step.ranked)
    left = (steps[-1].staying if steps else prompt) + answer
    head = flops.head_flops(description)
    norm = left * flops.final_norm_flops(description)
    return Count(layers, scores, norm, left * head, answer * head, left)


def flow(description: d.Description, prompt: int, drop: Drop | None) -> Iterator[Step]:
    """Give what each layer sees of a prompt."""
    if drop is None:
        yield from [Step(prompt, prompt)] * len(description.layers)
        return
    whole = drop.chunk or prompt
    sizes = [whole] * (prompt // whole) + [prompt % whole] * bool(prompt % whole)
    flows = {size: list(_flow(description, size, drop)) for size in set(sizes)}
    for steps in zip(*(flows[size] for size in sizes), strict=True):
        entering, staying, ranked = zip(*steps, strict=True)
        yield Step(sum(entering), sum(staying), tuple(n for part in ranked for n in part))


def _flow(description: d.Description, tokens: int, drop: Drop) -> Iterator[Step]:
    counts, alive = drop.counts(tokens), tokens
    for i, layer in enumerate(description.layers):
        at = i if drop.before_scan else i + 1
        can = at < len(counts) and isinstance(layer.mixer, d.SSD | d.SelectiveScan)
        kept = min(alive, counts[at]) if can else alive
        yield Step(alive, kept if drop.before_scan else alive, (alive,) if kept < alive else ())
        alive = kept


def influence(mixer: d.Mixer, n: int) -> int:
    """Count Simba's influence of n tokens on a layer's last state.

    Mamba-1: a product, an exponential and a multiply-add for each channel and state, 4EN, the
    products C·B of the last and each token, N, and 5E for S, the step, x and the maximum. SSD: a
    product of C and B for each that is not shared, 2N, with 5 for each head and 2 for each channel.
    """
    match mixer:
        case d.SelectiveScan():
            e, states = mixer.d_inner, mixer.d_state
            return n * (4 * e * states + 5 * e + states)
        case d.SSD():
            pairs = mixer.n_groups if mixer.shared == "bc" else mixer.n_heads
            return n * (2 * pairs * mixer.d_state + 5 * mixer.n_heads + 2 * mixer.d_inner)
        case d.Attention():
            return 0


def deletion(mixer: d.Mixer, n: int) -> int:
    """Count the effect of deleting each of n tokens: influence, with h_t − h_{t−1} in place of B·x.

    That is a subtraction and a multiply-add for each channel and state, where influence on SSD
    has a product for each head alone. The states h are the scan's own.
    """
    match mixer:
        case d.SelectiveScan():
            e, states = mixer.d_inner, mixer.d_state
            return n * (6 * e * states + 2 * e)
        case d.SSD():
            return n * (3 * mixer.d_inner * mixer.d_state + 4 * mixer.n_heads + 2 * mixer.d_inner)
        case d.Attention():
            return 0


def step_norm(mixer: d.Mixer, n: int) -> int:
    """Count the norm of each token's step: a multiply-add for each channel or head."""
    match mixer:
        case d.SelectiveScan():
            return n * 2 * mixer.d_inner
        case d.SSD():
            return n * 2 * mixer.n_heads
        case d.Attention():
            return 0


def likeness(mixer: d.Mixer, n: int, *, d_model: int) -> int:
    """Count UTRC's ranking and matching: clipped sums, norms, one half's cosines with the other."""
    return clipped_sum(mixer, n, d_model=d_model) + d_model * (3 * n + 2 * (n // 2) * (n - n // 2))


def clipped_sum(mixer: d.Mixer, n: int, *, d_model: int) -> int:  # noqa: ARG001
    """Count the sum of each token's positive outputs: a comparison and an addition a channel."""
    return n * 2 * d_model
