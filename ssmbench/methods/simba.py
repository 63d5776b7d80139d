"""Simba: prompt tokens that hardly move a layer's last state are dropped, more with every layer.

Training-free. Labels and generated tokens are never dropped, nor the prompt's last token, at which
the influence is taken. `ratio` is the fraction of the prompt gone at the last layer: the paper's
main setting, 10 % kept, is 0.9.

What ranks the tokens of a layer with an SSM mixer; others drop none, and the next catches up:

    influence  how much a token's input moves the scan's last output
    delete     how much the scan's last output would change without the token. Costs a scan
               more for Mamba-2, about two for Mamba-1.
    random     nothing: drawn anew at each layer from the seed, the layer and the prompt itself
    uniform    nothing: evenly spaced among those left, the first and the last included
    recent     nothing: the last ones stay
    dt_norm    the norm of the token's step, as DeciMamba has it
    clip_sum   the sum of the positive outputs of the mixer, as UTRC has it

With `chunk`, a prompt runs through all layers in pieces, each from the state that the one before
left; each is scored at its own last token, which stays, and its number falls by the same schedule.

Source: Simba, arXiv:2505.20698; no code was released. Where the paper leaves a choice, it is a
parameter, and the default is the literal reading.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field, model_validator

from ssmbench.errors import MethodError
from ssmbench.models import description as d
from ssmbench.models import token_flops
from ssmbench.models.token_flops import Drop
from ssmbench.surgery import schedule as schedules
from ssmbench.surgery.tokens import TokenReducer, Turn, check_free

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.reduction import Shown
    from ssmbench.models.token_flops import Ranking
    from ssmbench.surgery.context import MethodContext

VERSION = 1
SOURCE = "Simba, arXiv:2505.20698"

Criterion = Literal["influence", "random", "uniform", "recent", "dt_norm", "clip_sum", "delete"]


class Params(BaseModel, frozen=True, extra="forbid"):
    """How tokens are ranked, how many stay, and where the others go."""

    criterion: Criterion = Field(default="influence", description="What ranks the tokens.")
    aggregate: Literal["max", "absmax", "l2"] = Field(
        default="max",
        description="Of influence and delete, over channels: largest signed, largest absolute, "
        "norm.",
    )
    bias: Literal["input", "none", "both"] = Field(
        default="input",
        description="Of influence, which steps have the step's bias: the one that scales the "
        "input alone, not that which decays, as the paper reads; none; or both, the exact "
        "equation.",
    )
    domain: Literal["log", "linear"] = Field(
        default="log",
        description="Of influence and delete: compare logarithms, or float32 values, of which the "
        "small ones underflow to ties.",
    )
    schedule: schedules.Shape = Field(
        default="linear",
        description="How the number of tokens falls from layer to layer: linear to the last; "
        "linear_out, past it; power; geometric.",
    )
    power: float = Field(default=1.0, gt=0, description="The exponent of the power schedule.")
    every: int = Field(
        default=1, ge=1, description="The number falls at layers divisible by this alone."
    )
    site: Literal["after_mixer", "before_scan"] = Field(
        default="after_mixer",
        description="Where a layer drops tokens: after all of it, or between its convolution and "
        "its scan.",
    )
    chunk: int | None = Field(
        default=None, ge=2, description="Tokens of a prompt that run at once; null for all."
    )

    @model_validator(mode="after")
    def _fit(self) -> Params:
        if self.power != 1 and self.schedule != "power":
            raise ValueError(f"`power` is for the schedule `power`; found {self.schedule!r}")
        if self.criterion == "clip_sum" and self.site == "before_scan":
            raise ValueError(
                "found the criterion 'clip_sum', which looks at the mixer's output, with site "
                "'before_scan', where there is none yet; expected site 'after_mixer'"
            )
        return self


def needs(params: Params) -> frozenset[str]:
    """Give "seed" where tokens are drawn at random."""
    return frozenset({"seed"}) if params.criterion == "random" else frozenset()


def compress(model: Decoder, *, ratio: float, params: Params, context: MethodContext) -> None:
    """Set the model's reducer; no weight changes.

    Raises:
        MethodError: a model without SSM mixers, or one that drops tokens already; a criterion
            that its mixers do not have; parameters by which no token would ever be dropped.
    """
    if ratio == 0:
        return
    check_free(model)
    drop = drops(model.description, ratio=ratio, params=params)
    if not _drops_any(model.description, drop.counts, params):
        raise MethodError(
            f"{model.description.family}: found a schedule by which none of the "
            f"{len(model.description.layers)} layers drops a token; expected one that falls at a "
            "layer with an SSM mixer. Lower `every` or choose another schedule."
        )
    magnitude = params.criterion in ("influence", "delete")
    model.reducer = TokenReducer(
        score=partial(_score, params=params, seed=context.seed),
        counts=drop.counts,
        at=lambda ratio: counts(model.description, ratio=ratio, params=params),
        before_scan=drop.before_scan,
        chunk=drop.chunk,
        ranking=drop.score,
        log=params.domain == "log" if magnitude else None,
    )


def drops(description: d.Description, *, ratio: float, params: Params) -> Drop:
    """Say how tokens go and what ranking them costs: all that counting FLOPs needs.

    Raises:
        MethodError: a model without SSM mixers, or with such as the criterion cannot rank by.
    """
    _check(description, params)
    schedule = counts(description, ratio=ratio, params=params)
    rankings: dict[str, Ranking] = {
        "influence": token_flops.influence,
        "delete": token_flops.deletion,
        "dt_norm": token_flops.step_norm,
        "clip_sum": partial(token_flops.clipped_sum, d_model=description.d_model),
    }
    ranking = rankings.get(params.criterion, token_flops.free)
    return Drop(schedule, ranking, params.site == "before_scan", params.chunk)


def counts(
    description: d.Description, *, ratio: float, params: Params
) -> Callable[[int], tuple[int, ...]]:
    """Give the schedule: from a prompt's tokens, or a chunk's, to what each layer is to process.

    Layers that can drop none process what reaches them.
    """
    return partial(
        schedules.counts,
        n_layers=len(description.layers),
        ratio=ratio,
        shape=params.schedule,
        power=params.power,
        every=params.every,
    )


def _check(description: d.Description, params: Params) -> None:
    where = description.family
    found = [s.mixer for s in description.layers]
    if not any(isinstance(m, d.SSD | d.SelectiveScan) for m in found):
        raise MethodError(
            f"{where}: found no SSM mixer; expected one, since influence is taken on its state. "
            "Choose a family that has it."
        )
    if params.criterion == "dt_norm" and any(isinstance(m, d.SSD) and m.discrete for m in found):
        raise MethodError(
            f"{where}: found a discrete mixer, whose tokens have no step; expected Mamba-1 or "
            "Mamba-2 for the criterion 'dt_norm'. Choose another criterion."
        )


def _drops_any(
    description: d.Description, schedule: Callable[[int], tuple[int, ...]], params: Params
) -> bool:
    """Say whether a long prompt loses a token."""
    wanted = schedule(1_000_000)
    shift = 0 if params.site == "before_scan" else 1
    return any(
        wanted[i] < wanted[0]
        and isinstance(description.layers[i - shift].mixer, d.SSD | d.SelectiveScan)
        for i in range(shift, len(wanted))
    )


def _score(shown: Shown, turn: Turn, *, params: Params, seed: int) -> Tensor:
    from ssmbench.surgery import token_scores as scores

    log = params.domain == "log"
    match params.criterion:
        case "influence":
            return scores.by_influence(
                shown,
                aggregate=params.aggregate,
                bias=params.bias,
                log=log,
                n_kept=None if turn.whole else turn.n_kept,
            )
        case "delete":
            return scores.by_deletion(shown, aggregate=params.aggregate, log=log)
        case "random":
            return scores.by_chance(shown, [_seed(seed, turn.layer, p) for p in turn.prompts])
        case "uniform":
            return scores.by_spacing(shown, turn.n_kept)
        case "recent":
            return scores.by_place(shown)
        case "dt_norm":
            return scores.by_dt_norm(shown)
        case "clip_sum":
            return scores.by_clip_sum(shown)


def _seed(seed: int, layer: int, prompt: bytes) -> int:
    """Give what seeds a row's draw at a layer: nothing but these, so that other rows do not."""
    digest = hashlib.sha256(f"{seed} {layer} ".encode() + prompt).digest()
    return int.from_bytes(digest[:8], "little") >> 1
