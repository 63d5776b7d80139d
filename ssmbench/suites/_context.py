"""What a suite is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from ssmbench.models.decoder import Decoder

Row = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """How the cell's fine-tuning went.

    Attributes:
        data: the text's name: `wikitext`, or a file's or folder's own without its ending.
        rows: step, loss, learning_rate, gradient_norm, tokens, seconds and, of a training with
            two losses, dense_loss and sparse_loss: the store's table `training`.
        loss_before: the training's loss on held-out windows of its text, before its first step.
        loss_after: the same after its last, of the model that the suites measure.
        n: held-out windows.
    """

    data: str
    rows: Sequence[Row]
    loss_before: float
    loss_after: float
    n: int


@dataclass(frozen=True)
class Context:
    """One cell at the moment of measuring: the compressed model and its surroundings.

    Attributes:
        model: the compressed model, in evaluation mode, on its device.
        tokenizer: the tokenizer that the model was trained with.
        dense: loads the uncompressed model anew; only timing needs it.
        data: the folder of local task data (docs/local-data.md), or None for the hub.
        limit: score the first N documents (or windows) of each task only; None for all.
        seed: the cell's seed, for suites that draw anything at random.
        batch_tokens: the most tokens that one forward pass may hold.
        scratch: an existing folder for temporary files, the suite's own.
        report: called with (step, done, total) as the work goes on.
        training: how its fine-tuning went; None for a cell without.
    """

    model: Decoder
    tokenizer: PreTrainedTokenizerBase
    dense: Callable[[], Decoder]
    data: Path | None
    limit: int | None
    seed: int
    batch_tokens: int
    scratch: Path
    report: Callable[[str, int, int], None]
    training: Training | None = None


@dataclass
class Result:
    """What one suite measured on one cell, as rows of the store's tables.

    Rows lack cell_id, suite_id, suite, device and attempt_id, which the store adds.

    Attributes:
        metrics: task, metric, value (None if it could not be computed), stderr, n
            (documents), limit, higher_is_better, reason (None unless value is None),
            chance, best.
        samples: task, doc_id (text), metric, value, weight. For "acc" the value is 0 or 1
            and the weight 1; for "nll" the value is the document's nats and the weight its
            tokens, words or bytes, so exp(sum of values / sum of weights) is a perplexity.
        latency: phase, batch, length and, None only with a reason, median_s; any other column
            of the table.
        layers: layer, measure, place (text or None), value (None if it could not be computed),
            n (what it is a mean over), reason (None unless value is None).
        training: step, loss, dense_loss, sparse_loss, learning_rate, gradient_norm, tokens,
            seconds.
    """

    metrics: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)
    latency: list[Row] = field(default_factory=list)
    layers: list[Row] = field(default_factory=list)
    training: list[Row] = field(default_factory=list)

    def extend(self, other: Result) -> None:
        """Append another result's rows to this one's, in place."""
        self.metrics += other.metrics
        self.samples += other.samples
        self.latency += other.latency
        self.layers += other.layers
        self.training += other.training
