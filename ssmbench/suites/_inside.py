"""Seeing what happens inside a model's layers while it runs, whether or not it drops tokens."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbench.models import description as d
from ssmbench.models.forest import Forest
from ssmbench.models.mixers import SelectiveScanMixer, SSDMixer, thinned
from ssmbench.models.reduction import Merging, Shown, Watch
from ssmbench.suites._texts import beginning, texts
from ssmbench.surgery.token_scores import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.forest import Stage
    from ssmbench.models.reduction import Reducer, Reduction
    from ssmbench.models.token_flops import Drop
    from ssmbench.suites._context import Context


class Rows(NamedTuple):
    """Tokens as rows: (rows, length, width), and which stage they are."""

    values: Tensor
    stage: Stage


class Inside(NamedTuple):
    """One layer, in one forward pass.

    Attributes:
        layer: its number.
        shown: what enters its scan, of the tokens that do; None where it has none.
        mixed: what its mixer gives out; None where it has none.
        residual: the residual stream that the next layer gets.
        state: what the layer carries after the rows.
    """

    layer: int
    shown: Shown | None
    mixed: Rows | None
    residual: Rows
    state: tuple[Tensor, ...]


@dataclass
class Observer:
    """A decoder's `reducer` that does what another does, or drops nothing, and keeps what it sees.

    Attributes:
        inner: the model's own reducer.
        chunk: tokens of a prompt that run at once, as there.
        shown: layer → what entered its scan.
    """

    inner: Reducer | None
    chunk: int | None
    shown: dict[int, Shown] = field(default_factory=dict)

    @property
    def drop(self) -> Drop | None:
        """How the model's own reducer drops tokens."""
        return self.inner.drop if self.inner else None

    def begin(self, forest: Forest) -> Observation:
        """Begin a forward pass."""
        return Observation(self, self.inner.begin(forest) if self.inner else None)

    def accounted(self) -> AbstractContextManager[list[dict[str, Any]]]:
        """Keep the account of the model's own reducer."""
        assert self.inner is not None
        return self.inner.accounted()


@dataclass
class Observation:
    """One forward pass under observation."""

    observer: Observer
    inner: Reduction | None

    def watch(self, layer: int, forest: Forest) -> Watch:
        """Watch every layer; one that drops nothing otherwise keeps all."""
        own = self.inner.watch(layer, forest) if self.inner else None
        if own is None:
            return Watch(forest, partial(self._keep_all, layer))
        return replace(own, choose=partial(self._choose, layer, own.choose, own.before_scan))

    def _keep_all(self, layer: int, shown: Shown) -> Tensor:
        self.observer.shown[layer] = shown
        return torch.ones(shown.raw.shape[:2], dtype=torch.bool, device=shown.raw.device)

    def _choose(
        self,
        layer: int,
        choose: Callable[[Shown], Tensor | Merging],
        before_scan: bool,  # noqa: FBT001 - bound, never called by hand
        shown: Shown,
    ) -> Tensor | Merging:
        choice = choose(shown)
        entering = shown
        if before_scan and isinstance(choice, Tensor):
            kept, index = shown.stage.thin(choice)
            x, raw, B, C = thinned((shown.x, shown.raw, shown.B, shown.C), shown.stage, kept, index)
            entering = shown._replace(stage=kept, x=x, raw=raw, B=B, C=C, step=None)
        self.observer.shown[layer] = entering
        return choice


@contextmanager
def watching(model: Decoder, see: Callable[[Inside], None]) -> Iterator[None]:
    """Call `see` for each layer of every pass over prompts within; the model is left as it was.

    The forests that run must be prompted, and have no stage but the prompts.
    """
    observer = Observer(model.reducer, model.reducer.chunk if model.reducer else None)
    mixed: dict[int, Tensor] = {}

    def after_mixer(layer: int, _module: Any, _args: Any, out: tuple[Tensor, Any]) -> None:
        mixed[layer] = out[0]

    def after_block(layer: int, _module: Any, args: Any, out: tuple[Tensor, Any]) -> None:
        _, forest, _, watch = args
        first, left = forest.stages[0], watch.forest.stages[0]
        values = mixed.pop(layer, None)
        stage = left if watch.before_scan else first
        see(
            Inside(
                layer,
                observer.shown.pop(layer, None),
                None if values is None else Rows(stage.rows(values), stage),
                Rows(left.rows(out[0]), left),
                out[1],
            )
        )

    handles = []
    for i, block in enumerate(model.layers):
        if isinstance(block.mixer, nn.Module):
            handles.append(block.mixer.register_forward_hook(partial(after_mixer, i)))
        handles.append(block.register_forward_hook(partial(after_block, i)))
    own, model.reducer = model.reducer, observer
    try:
        yield
    finally:
        model.reducer = own
        for handle in handles:
            handle.remove()


def look(
    context: Context, name: str, *, data: str, n: int, length: int, see: Callable[[Inside], None]
) -> None:
    """Run a model over the beginnings of documents, and call `see` for each layer of each batch.

    Args:
        context: the model and its surroundings; `limit` documents.
        name: of the step, for the display.
        data: see `_texts.DATA`.
        n: documents.
        length: tokens of each; a shorter document is taken whole, one of a single token left out.
        see: told of every layer.
    """
    n = min(n, context.limit or n)
    found = texts(data, context.data, n=n, length=length)
    rows = [beginning(context.tokenizer, text.text, length) for text in found]
    rows = [row for row in rows if len(row) > 1]
    per_batch = max(1, context.batch_tokens // length)
    context.report(name, 0, len(rows))
    with torch.inference_mode(), watching(context.model, see):
        for first in range(0, len(rows), per_batch):
            batch: Sequence[list[int]] = rows[first : first + per_batch]
            forest = replace(Forest.ragged(batch, device=context.model.device), prompted=True)
            context.model.hidden(forest)
            context.report(name, min(first + per_batch, len(rows)), len(rows))


def why_no_scan(spec: d.Layer) -> str | None:
    """Say why a layer has no scan, or None."""
    if spec.mixer is None:
        return "the layer's mixer was removed"
    return "attention has no scan" if isinstance(spec.mixer, d.Attention) else None


def last_output(inside: Inside) -> Tensor:
    """Give what each row's scan gave out last, before D and gate: C times its state.

    Returns:
        (rows, E) float32, channels of all heads joined.
    """
    shown = inside.shown
    assert shown is not None
    state = inside.state[1].float()
    last = torch.tensor(shown.stage.lengths, device=state.device) - 1
    C = shown.C[torch.arange(len(last), device=state.device), last]
    if isinstance(shown.mixer, SelectiveScanMixer):
        return torch.einsum("ren,rn->re", state, C)
    C = C.repeat_interleave(state.shape[1] // C.shape[1], 1)
    return torch.einsum("rhpn,rhn->rhp", state, C).flatten(1)


def states(shown: Shown) -> Iterator[Tensor]:
    """Give the scan's state after each token of the rows, one at a time: (rows, all its numbers).

    Padding gives what means nothing.
    """
    step = steps(shown, "both")
    h = shown.state
    if isinstance(shown.mixer, SelectiveScanMixer):
        A = -torch.exp(shown.mixer.A_log.float())
        assert step.weight is not None
        h = shown.x.new_zeros(len(shown.x), *A.shape) if h is None else h
        inputs = step.weight * shown.x
        for t in range(shown.x.shape[1]):
            h = h * torch.exp(step.decay[:, t, :, None] * A)
            h = h + inputs[:, t, :, None] * shown.B[:, t, None]
            yield h.flatten(1)
        return
    heads = step.decay.shape[2]
    x = shown.x.repeat_interleave(heads // shown.x.shape[2], 2)
    x = x if step.weight is None else x * step.weight[..., None]
    spread = heads // shown.B.shape[2]
    decay = torch.exp(-step.decay)
    assert isinstance(shown.mixer, SSDMixer)
    h = x.new_zeros(*x[:, 0].shape, shown.B.shape[-1]) if h is None else h
    for t in range(x.shape[1]):
        B = shown.B[:, t].repeat_interleave(spread, 1)
        h = h * decay[:, t, :, None, None] + x[:, t, ..., None] * B[:, :, None]
        yield h.flatten(1)


def neighbours(values: Tensor) -> Tensor:
    """Give the cosine similarity of each token with the one before: (rows, length − 1)."""
    return F.cosine_similarity(values[:, 1:].float(), values[:, :-1].float(), dim=-1)


def neighbours_of_states(shown: Shown) -> Tensor:
    """Give the cosine similarity of each token's state with the one before: (rows, length − 1)."""
    found, before = [], None
    for h in states(shown):
        if before is not None:
            found.append(F.cosine_similarity(h, before, dim=-1))
        before = h
    return torch.stack(found, 1) if found else shown.raw.new_zeros(len(shown.raw), 0)
