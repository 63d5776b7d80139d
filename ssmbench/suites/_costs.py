"""How long a task's requests are, and the FLOPs of one of mean length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssmbench.models import token_flops

if TYPE_CHECKING:
    from ssmbench.suites._context import Context, Row


@dataclass
class Lengths:
    """Requests of a task: how many, and their tokens of prompt and of answer, all together."""

    n: int = 0
    prompt: int = 0
    answer: int = 0

    def add(self, prompt: int, answer: int) -> None:
        """Count one request."""
        self.n += 1
        self.prompt += prompt
        self.answer += answer


def cost_rows(context: Context, task: str, seen: Lengths) -> list[Row]:
    """Give metrics rows for a task's mean tokens and for the FLOPs of one input of that length.

    The metrics are prompt_tokens, answer_tokens, flops_all (the head on every position that
    reaches it) and flops_scored (on those that predict the answer alone); n counts requests. As
    in the paper, an input is a prompt and one answer run by themselves, whatever is shared here.
    """
    prompt, answer = seen.prompt / seen.n, seen.answer / seen.n
    reducer = context.model.reducer
    count = token_flops.count(
        context.model.description,
        prompt=round(prompt),
        answer=round(answer),
        drop=reducer.drop if reducer else None,
    )
    values = {
        "prompt_tokens": prompt,
        "answer_tokens": answer,
        "flops_all": float(count.total("all")),
        "flops_scored": float(count.total("scored")),
    }
    return [
        {
            "task": task,
            "metric": metric,
            "value": value,
            "stderr": None,
            "n": seen.n,
            "limit": context.limit,
            "higher_is_better": None,
            "reason": None,
            "chance": None,
            "best": None,
        }
        for metric, value in values.items()
    ]
