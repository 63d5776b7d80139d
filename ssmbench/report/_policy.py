"""What a run must hold to, as a file: the rules of `ssmbench gate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ssmbench.errors import CommandError, PolicyError
from ssmbench.grid.filters import Filter, parse_filter
from ssmbench.grid.messages import explain
from ssmbench.grid.yaml_source import Kind, Problem, read_document

if TYPE_CHECKING:
    from pathlib import Path

POLICY = Kind("policy", "expected 'rules:' and a list of them", PolicyError)

SCORES = ("score", "change")
FACTS = (
    "compression_mixer",
    "compression_model",
    "ratio_achieved",
    "params_model",
    "state_bytes",
    "flops_per_token",
)
COUNTS = ("failed", "unfinished")
Measure = Literal[
    "score",
    "change",
    "speedup",
    "compression_mixer",
    "compression_model",
    "ratio_achieved",
    "params_model",
    "state_bytes",
    "flops_per_token",
    "failed",
    "unfinished",
]


class Rule(BaseModel):
    """One demand on every row that it is about, or on the run as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: Measure = Field(
        description="What is judged: `score` or `change` of a suite, `speedup` over dense, a fact"
        " such as `compression_mixer`, or how many cells are `failed` or `unfinished`."
    )
    name: str = Field("", description="What the rule asks, for people.")
    only: Annotated[str, Field(description="Which cells, as in `--only`; all of them.")] = ""
    suite: str = Field("", description="Whose score or times; the first that has any.")
    task: str = Field("", description="One task; the mean over the suite's tasks.")
    to: Literal["dense", "other"] = Field(
        "dense", description="What a `change` is taken from: dense, or the run of `--against`."
    )
    phase: Literal["prefill", "decode"] = Field("prefill", description="Of a `speedup`.")
    batch: int | None = Field(None, ge=1, description="Of a `speedup`; every one measured.")
    length: int | None = Field(None, ge=1, description="Of a `speedup`; every one measured.")
    at_least: float | None = Field(
        None, description="The lower bound: fractions for accuracies, nats/token for perplexities."
    )
    at_most: float | None = Field(None, description="The upper bound.")

    @model_validator(mode="after")
    def _bounded(self) -> Rule:
        if self.at_least is None and self.at_most is None:
            raise ValueError("the rule has no bound; expected 'at_least:' or 'at_most:'")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(
                f"at_least {self.at_least:g} is above at_most {self.at_most:g}; nothing is between"
            )
        return self

    @property
    def filter(self) -> Filter:
        """Which cells the rule is about."""
        return parse_filter([self.only] if self.only else [])

    @property
    def asks(self) -> str:
        """The rule in words."""
        if self.name:
            return self.name
        of = " ".join(t for t in (self.suite, self.task) if t)
        if self.measure == "speedup":
            of = " ".join([of, self.phase]).strip()
        about = f" where {self.only}" if self.only else ""
        return f"{self.measure}{f' of {of}' if of else ''} {self.bounds}{about}"

    @property
    def bounds(self) -> str:
        """The bounds in signs."""
        low = "" if self.at_least is None else f"≥ {self.at_least:g}"
        high = "" if self.at_most is None else f"≤ {self.at_most:g}"
        return " and ".join(t for t in (low, high) if t)


class Policy(BaseModel):
    """The rules that a run is judged by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[Rule, ...] = Field(min_length=1, description="What is demanded.")

    @model_validator(mode="after")
    def _judges_quality(self) -> Policy:
        measures = {rule.measure for rule in self.rules}
        if "speedup" in measures and not measures & set(SCORES):
            raise ValueError(
                "rules: a speed-up is judged, but nothing that it is bought with; expected a rule"
                " on 'score' or 'change' as well"
            )
        return self


def read_policy(path: Path) -> Policy:
    """Read and check a policy file.

    Raises:
        PolicyError: the file has mistakes; all of them are listed with their lines.
    """
    document, problems = read_document(path, POLICY)
    policy = None
    try:
        policy = Policy.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        problems += explain(error, document, Policy)
    for i, rule in enumerate(document.value.get("rules") or []):
        only = rule.get("only") if isinstance(rule, dict) else None
        if isinstance(only, str) and only:
            try:
                parse_filter([only])
            except CommandError as error:
                text = str(error).partition(": ")[2]
                mark = document.mark(("rules", i, "only"))
                problems.append(Problem(mark, f"rules[{i}].only: {text}"))
    if problems or policy is None:
        raise PolicyError(document.lines(problems))
    return policy
