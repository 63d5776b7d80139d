"""The one decoder that every family is: embedding, described blocks, final norm, head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssmbench.kernels.gate import rms_norm
from ssmbench.models import description as d
from ssmbench.models import mixers
from ssmbench.models.chunks import rounds
from ssmbench.models.forest import Forest
from ssmbench.models.linear import Linear
from ssmbench.models.state import LayerState, State

if TYPE_CHECKING:
    from ssmbench.models.reduction import Reducer, Reduction, Watch


@dataclass(frozen=True)
class Origin:
    """Where a model came from: its name, source ("zoo:…", "folder:…", "hub:…") and tokenizer."""

    name: str
    source: str
    tokenizer: str | None
    revision: str | None = None


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last axis, in float32."""

    def __init__(self, d_model: int, spec: d.Norm) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if spec.kind == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (…, d_model); the result has the weight's dtype."""
        if self.bias is None:
            return rms_norm(x, self.weight, self.spec.eps)
        shape = (x.shape[-1],)
        y = F.layer_norm(x.float(), shape, self.weight.float(), self.bias.float(), self.spec.eps)
        return y.to(self.weight.dtype)


class MLP(nn.Module):
    """fc2(gelu(fc1 x)), or fc2(y · silu(gate)) with [y | gate] = fc1 x."""

    def __init__(self, d_model: int, spec: d.MLP) -> None:
        super().__init__()
        self.spec = spec
        rows = spec.d_hidden * (2 if spec.kind == "swiglu" else 1)
        self.fc1 = Linear(d_model, rows, bias=spec.bias)
        self.fc2 = Linear(spec.d_hidden, d_model, bias=spec.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, d_model) to the same shape."""
        h = self.fc1(x)
        if self.spec.kind == "swiglu":
            y, gate = h.chunk(2, -1)
            y = y * F.silu(gate)
        else:
            approximate = "tanh" if self.spec.kind == "gelu_tanh" else "none"
            y = F.gelu(h, approximate=approximate)
        mapped: Tensor = self.fc2(y)
        return mapped


class Block(nn.Module):
    """One layer around the residual stream, which stays in float32."""

    def __init__(self, d_model: int, spec: d.Layer) -> None:
        super().__init__()
        self.spec = spec
        shares = spec.one_norm and spec.mlp is not None
        self.norm = Norm(d_model, spec.norm) if spec.mixer or shares else None
        self.mixer = mixers.build(d_model, spec.mixer) if spec.mixer else None
        self.norm2 = Norm(d_model, spec.norm) if spec.mlp and not spec.one_norm else None
        self.mlp = MLP(d_model, spec.mlp) if spec.mlp else None

    def forward(
        self, h: Tensor, forest: Forest, state: LayerState | None, watch: Watch | None = None
    ) -> tuple[Tensor, LayerState]:
        """Advance the residual stream h (tokens, d_model) by one layer.

        Where `watch` drops tokens, only what it leaves comes out. A layer without a mixer
        carries no state: its state is an empty tuple.
        """
        after, state = h, state or ()
        normed = self.norm(h) if self.norm is not None else h
        if self.mixer is not None:
            mixed, state = self.mixer(normed, forest, state or None, watch)
            if watch is not None and watch.index is not None:
                h, normed = (t.index_select(0, watch.index) for t in (h, normed))
            after = h + mixed
            if watch is not None:
                watch.finish(mixed)
        if self.mlp is not None:
            if self.norm2 is not None:
                normed = self.norm2(h if self.spec.pattern == "parallel" else after)
            after = after + self.mlp(normed)
        return (after if watch is None else watch.left(h, after)), state


class Decoder(nn.Module):
    """A causal language model of any family, built from its description.

    `reducer`, where a method has set one, drops prompt tokens between layers of passes over
    prompted forests; all others run densely.

    Parameters are uninitialised (dt, A and D are not even finite) until a checkpoint is
    loaded or `initialise` is called.
    """

    def __init__(self, description: d.Description, *, origin: Origin | None = None) -> None:
        super().__init__()
        self.description = description
        self.origin = origin
        self.reducer: Reducer | None = None
        rows = torch.empty(description.vocab_size, description.d_model)
        self.embedding: nn.Embedding = nn.Embedding.from_pretrained(rows, freeze=False)
        self.layers = nn.ModuleList(Block(description.d_model, s) for s in description.layers)
        self.norm_f = Norm(description.d_model, description.final_norm)
        self.lm_head = Linear(
            description.d_model, description.vocab_size, bias=description.head_bias
        )
        if description.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return self.embedding.weight.dtype

    @property
    def compute_dtype(self) -> torch.dtype:
        """What projections run in: the type that norms give."""
        return self.norm_f.weight.dtype

    def hidden(
        self, forest: Forest, state: State | None = None, *, keep_state: bool = True
    ) -> tuple[Tensor, State]:
        """Run all layers over a forest's tokens.

        Args:
            forest: n tokens; its first stage's rows continue `state`'s rows, in order.
            state: what an earlier call gave back; None begins anew, as prompts in chunks must.
            keep_state: False where nobody will continue: then one layer's states at a time are
                alive, and the state given back is empty.

        Returns:
            (n, d_model) after the final norm, in the forest's flat order, and the state after
            the rows of its last stage. Tokens that the reducer dropped are NaN.
        """
        if self.reducer is None or not forest.prompted:
            h, _, state = self._layers(forest, state, None, keep_state=keep_state)
            return h, state
        h, index, state = self._reduced(forest, self.reducer, state, keep_state=keep_state)
        dropped = h.new_full((len(forest.tokens), h.shape[1]), torch.nan)
        return dropped.index_copy(0, index, h), state

    def left(self, forest: Forest, reducer: Reducer) -> tuple[Tensor, Tensor]:
        """Run all layers over prompts of which a reducer, the model's own or another, drops tokens.

        Args:
            forest: n tokens, prompted.
            reducer: drops them.

        Returns:
            (m, d_model) after the final norm, of the tokens that are left, and their indices (m,)
            in the forest's flat order.
        """
        h, index, _ = self._reduced(forest, reducer, None, keep_state=False)
        return h, index

    def _reduced(
        self, forest: Forest, reducer: Reducer, state: State | None, *, keep_state: bool
    ) -> tuple[Tensor, Tensor, State]:
        """Give what `_layers` does, of all chunks, with indices into the whole forest."""
        parts = rounds(forest, reducer.chunk)
        if len(parts) > 1 and state is not None:
            raise ValueError("found a state before prompts in chunks; expected these to begin anew")
        found, indices = [], []
        for part in parts:
            keeps = keep_state or part is not parts[-1]
            reduction = reducer.begin(part.forest)
            state = part.entering(state)
            h, alive, state = self._layers(part.forest, state, reduction, keep_state=keeps)
            found.append(h)
            indices.append(part.index[alive])
        assert state is not None
        return torch.cat(found), torch.cat(indices), state

    def _layers(
        self, forest: Forest, state: State | None, reduction: Reduction | None, *, keep_state: bool
    ) -> tuple[Tensor, Tensor, State]:
        """Give normed hidden states of the tokens that are left, their indices, and the state."""
        h = self.embedding(forest.tokens).float()
        alive = torch.arange(len(forest.tokens), device=h.device)
        layers = []
        forest = forest if keep_state else forest.ending()
        for i, block in enumerate(self.layers):
            watch = reduction.watch(i, forest) if reduction else None
            h, layer = block(h, forest, None if state is None else state.layers[i], watch)
            if watch is not None and watch.index is not None:
                forest, alive = watch.forest, alive[watch.index]
            if keep_state:
                layers.append(layer)
        return self.norm_f(h), alive, State(tuple(layers))

    def logits(self, hidden: Tensor) -> Tensor:
        """Give float32 logits (…, vocabulary) for hidden vectors (…, d_model)."""
        logits: Tensor = self.lm_head(hidden)
        return logits.float()

    def forward(self, input_ids: Tensor) -> Tensor:
        """Give float32 logits (batch, length, vocabulary) for input_ids (batch, length) int64."""
        hidden, _ = self.hidden(Forest.batch(input_ids), keep_state=False)
        return self.logits(hidden).view(*input_ids.shape, -1)
