"""lm-eval's view of a decoder: log-likelihoods of continuations, contexts run once.

What lm-eval's own HFLM leaves undone: it runs the context
again for every choice, pads, and takes the head and the softmax of every position. Here
requests become trees, one batch of trees is one forward pass without padding in its matrix
products, and the head sees only the positions that predict a continuation token.

Where the model drops tokens of prompts, a request's whole context is its prompt, and of its
continuation nothing is ever dropped; what remains of a prompt is run once for all continuations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ssmbench.errors import CommandError, DataError, MethodError, NumericalError
from ssmbench.suites._costs import Lengths
from ssmbench.suites._reduced import NO_PROMPT
from ssmbench.suites._scoring import batch_scores
from ssmbench.suites._tree import (
    ForkPoint,
    Row,
    Tree,
    alone,
    batches,
    make_row,
    plant,
    shared_prefix,
    whole_context,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from ssmbench.models.decoder import Decoder

DEFAULT_MAX_LENGTH = 2048
UNSET_MAX_LENGTH = 1_000_000_000

Encoded = tuple[tuple[str, str] | None, list[int], list[int]]
Score = tuple[float, bool]


class DecoderLM(TemplateLM):  # type: ignore[misc]  # lm-eval ships no types
    """Score continuations by a decoder, with the conventions of lm-eval 0.4.13's HFLM.

    Args:
        model: in evaluation mode.
        tokenizer: the model's; its beginning-of-text rule is applied as HFLM applies it.
        batch_tokens: the most tokens in one forward pass; a longer request runs alone.
        share: run equal beginnings once; False runs every request whole (the naive twin).
        max_length: the longest input; the oldest tokens beyond it are dropped. By default
            the tokenizer's limit if it states one, else 2048.
        fork_point: how many leading tokens two requests may share, and where a single one
            is cut. By default all that they have in common; where the model drops tokens of
            prompts, a whole equal context or nothing.
        report: called with (task, done, total) as requests are scored.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 4096,
        share: bool = True,
        max_length: int | None = None,
        fork_point: ForkPoint | None = None,
        report: Callable[[str, int, int], None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.share = share
        self.max_length = max_length or stated_length(tokenizer) or DEFAULT_MAX_LENGTH
        self.fork_point = fork_point or (whole_context if model.reducer else shared_prefix)
        self._report = report or (lambda _step, _done, _total: None)
        self._device = next(model.parameters()).device
        self._bos_text = tokenizer.decode(self.prefix_token_id)
        self._encoded: dict[str, list[int]] = {}
        self.lengths: dict[str, Lengths] = {}  # By task, of its requests so far.
        self._step, self._done, self._total = "requests", 0, 0

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that an empty context becomes: beginning of text, else end of text."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,  # noqa: FBT001
        **_: Any,
    ) -> list[int]:
        """Tokenize a text; one that spells the beginning-of-text token gets no second one."""
        if add_special_tokens is None and string in self._encoded:
            return self._encoded[string]
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and string.startswith(self._bos_text):
            options = {"add_special_tokens": False}
        return list(self.tokenizer.encode(string, **options))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Score]:  # noqa: FBT001, FBT002
        """Score (context, continuation) requests: (log-likelihood in nats, is the argmax).

        Requests of one task run together, in the order of their tasks.
        """
        del disable_tqdm
        answers: list[Score | None] = [None] * len(requests)
        self._total, self._done = len(requests), 0
        for task, indices in _by_task(requests).items():
            self._step = task
            part = [requests[i] for i in indices]
            self._encode_all(part)
            scores = super().loglikelihood(part, disable_tqdm=True)
            self._encoded = {}
            for i, score in zip(indices, scores, strict=True):
                answers[i] = score
        return [a for a in answers if a is not None]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: FBT001, FBT002
        """Score whole texts in nats: disjoint windows of `max_length`, each token once.

        Raises:
            MethodError: the model drops tokens of prompts, and whole texts have none.
        """
        del disable_tqdm
        if self.model.reducer is not None:
            names = ", ".join(_by_task(requests))
            raise MethodError(f"{names}: {NO_PROMPT}.")
        owners: list[int] = []
        windows: list[Encoded] = []
        for i, request in enumerate(requests):
            pairs = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            found = [(None, *make_disjoint_window(pair)) for pair in pairs]
            windows += found
            owners += [i] * len(found)
        self._step = next(iter(_by_task(requests)), "requests")
        self._total, self._done = len(windows), 0
        totals = [0.0] * len(requests)
        for i, (nats, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[i] += nats
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: FBT001, FBT002
        """Refuse: compressed models are measured by likelihoods here.

        Raises:
            CommandError: always; the message names the tasks.
        """
        del disable_tqdm
        names = ", ".join(_by_task(requests))
        raise CommandError(
            f"{names}: this task lets the model write text; only tasks that score given text "
            "(loglikelihood, multiple_choice, loglikelihood_rolling) are supported."
        )

    def score(self, task: str, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Score (context, continuation) tokens of one task: log-likelihoods in nats."""
        self._step, self._done, self._total = task, 0, len(pairs)
        return [nats for nats, _ in self._loglikelihood_tokens([(None, *pair) for pair in pairs])]

    def _loglikelihood_tokens(self, requests: Sequence[Encoded], **_: Any) -> list[Score]:
        """Score encoded requests; see `TemplateLM`."""
        rows = [self._row(i, request) for i, request in enumerate(requests)]
        if self.share:
            trees = plant(rows, fork_point=self.fork_point, budget=self.batch_tokens)
        else:
            trees = alone(rows, fork_point=self.fork_point)
        answers: list[Score | None] = [None] * len(rows)
        self._report(self._step, self._done, self._total)
        with torch.inference_mode():
            for batch in batches(trees, budget=self.batch_tokens):
                for index, score in self._score(batch):
                    answers[index] = score
                    self._done += 1
                self._report(self._step, self._done, self._total)
        return [a for a in answers if a is not None]

    def _row(self, index: int, request: Encoded) -> Row:
        text, context, continuation = request
        try:
            row = make_row(index, context, continuation, self.max_length)
        except ValueError as why:
            raise DataError(
                f"{self._step}: request {text!r} gives {why}; at least one of each is needed, "
                f"and at most {self.max_length} of continuation. Is this the model's tokenizer?"
            ) from None
        self.lengths.setdefault(self._step, Lengths()).add(row.context, len(continuation))
        return row

    def _score(self, batch: Sequence[Tree]) -> Iterator[tuple[int, Score]]:
        """Run one batch of trees; gives (request index, score) for all its requests."""
        requests = [r for tree in batch for row in tree.rows for r in row.requests]
        sums, greedy = batch_scores(self.model, batch)
        if not torch.isfinite(sums).all():
            raise NumericalError(
                f"{self._step}: the model's log-probabilities are not finite; "
                "its weights or activations have overflowed."
            )
        scores = zip(sums.tolist(), greedy.tolist(), strict=True)
        yield from zip((r.number for r in requests), scores, strict=True)

    def _encode_all(self, requests: Iterable[Any]) -> None:
        """Tokenize in one call, which is faster, what `_encode_pair` will ask for."""
        texts: dict[str, None] = {}
        for request in requests:
            context, continuation = request.args[:2]
            if context:
                texts[context.rstrip()] = texts[context + continuation] = None
        known = [t for t in texts if t and not t.startswith(self._bos_text)]
        if known:
            self._encoded = dict(zip(known, self.tokenizer(known)["input_ids"], strict=True))


def stated_length(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Give the longest input that the tokenizer's files state, None if they state none."""
    length = getattr(tokenizer, "model_max_length", None)
    return int(length) if length and length < UNSET_MAX_LENGTH else None


def _by_task(requests: Iterable[Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        found.setdefault(getattr(request, "task_name", None) or "requests", []).append(i)
    return found
