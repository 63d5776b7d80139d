"""Which layer reads what was said long ago, and what each of Simba's criteria leaves to it.

    python benchmarks/simba_recall.py [--models zoo-mamba-l …] [--ratio 0.5] [--n 200]

On tw_last_word, whose answer is a place named long before ("put black kite in cave", "moved kite
to cave"), in two ways. *Cut*: words of the sentence that says it last are taken out after one
layer, all else stays; the layers before have read them, those after have not. *Kept*: how often
each criterion leaves the three words that end it (thing, in or to, place) to the layer that the
cut shows to read them, or the full stop after them; and the accuracy where the three are left
and where not. Before the scan, "reaches" means the scan: the convolution saw every word.
"""

from __future__ import annotations

import argparse
import dataclasses
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import ssmbench
from ssmbench.api import tokenizer_of
from ssmbench.models.forest import Forest
from ssmbench.models.reduction import Watch
from ssmbench.surgery.tokens import TokenReducer
from ssmbench.zoo import tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.reduction import Shown

MODELS = ["zoo-mamba-l", "zoo-mamba2", "zoo-phi-mamba", "zoo-smol-mamba"]
CRITERIA: dict[str, dict[str, Any]] = {
    "influence": {},
    "influence, before the scan": {"site": "before_scan"},
    "recent": {"criterion": "recent"},
    "uniform": {"criterion": "uniform"},
    "random": {"criterion": "random"},
    "random, before the scan": {"criterion": "random", "site": "before_scan"},
    "recent, before the scan": {"criterion": "recent", "site": "before_scan"},
    "influence, bias: both": {"bias": "both"},
    "clip_sum": {"criterion": "clip_sum"},
    "delete": {"criterion": "delete"},
}
READS = {"zoo-mamba-l": 1, "zoo-phi-mamba": 1}
"""The layer that reads what was said, where it is not the first: found by the cut."""

ROWS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--n", type=int, default=200)
    show_recall(parser.parse_args())


def show_recall(args: argparse.Namespace) -> None:
    """Print what cutting words does after each layer, and what each criterion keeps of them."""
    documents = tasks.documents("tw_last_word", n=args.n, seed=0)
    models = {name: ssmbench.load(name) for name in args.models}
    asked = {name: Asked.read(model, documents) for name, model in models.items()}
    print(f"tw_last_word, {args.n} documents, accuracy in %\n")
    print("| model | whole | cut from the prompt | cut after layer | sentence |", end="")
    print(" thing | in, to | place | full stop |\n|" + "---|" * 9)
    for name, model in models.items():
        whole = right(model, asked[name]), right(model, asked[name].without_sentences())
        for layer in range(len(model.layers) - 1):
            cuts = [asked[name].sentences]
            cuts += [[range(p + i, p + i + 1) for p in asked[name].places] for i in (-2, -1, 0, 1)]
            found = []
            for gone in cuts:
                with reducing(model, Cut(layer, gone)) as cut:
                    found.append(right(model, asked[name], cut))
            values = [f"{100 * v.float().mean():.1f}" for v in (*whole, *found)]
            print(
                f"| {name} | {values[0]} | {values[1]} | {layer} | " + " | ".join(values[2:]), "|"
            )
    print(f"\nRatio {args.ratio}; in brackets, documents\n")
    print(
        "| model | ranked by | words reach it | full stop does | right where words do | where not |"
    )
    print("|---|---|---|---|---|---|")
    for name in args.models:
        if name in READS:
            _show_kept(name, models[name], asked[name], args.ratio)


def _show_kept(name: str, model: Decoder, asked: Asked, ratio: float) -> None:
    for label, params in CRITERIA.items():
        reduced = ssmbench.compress(model, "simba", ratio, **params)
        with reducing(reduced, Recorder.of(reduced.reducer)) as recorder:
            correct = right(reduced, asked, recorder)
        layer = READS[name] if params.get("site") else READS[name] - 1
        both = list(zip(asked.places, recorder.kept[layer], strict=True))
        words = torch.tensor([{p - 2, p - 1, p} <= kept for p, kept in both])
        stop = torch.tensor([p + 1 in kept for p, kept in both])
        parts = [_share(words), _share(stop), _share(correct[words]), _share(correct[~words])]
        print(f"| {name} | {label} | " + " | ".join(parts) + " |")


def _share(marks: Tensor) -> str:
    return f"{100 * marks.float().mean():.1f} ({len(marks)})" if len(marks) else "– (0)"


@dataclass(frozen=True)
class Asked:
    """Prompts whose next word is a place that was named before.

    Attributes:
        prompts: token ids.
        answers: the token that is right, of each.
        places: where in the prompt it stands last.
        sentences: the places of the whole sentence there, its full stop included.
    """

    prompts: list[list[int]]
    answers: list[int]
    places: list[int]
    sentences: list[range]

    @classmethod
    def read(cls, model: Decoder, documents: Sequence[dict[str, Any]]) -> Asked:
        tokenizer = tokenizer_of(model)
        prompts, answers, places, sentences = [], [], [], []
        for document in documents:
            words = document["context"].split()
            at = len(words) - 1 - words[::-1].index(document["target"])
            start = at - next(i for i in range(at + 1) if i == at or words[at - 1 - i] in ".?")
            prompts.append(tokenizer.encode(document["context"]))
            answers.append(tokenizer.convert_tokens_to_ids(document["target"]))
            places.append(at)
            sentences.append(range(start, at + 2))
        return cls(prompts, answers, places, sentences)

    def without_sentences(self) -> Asked:
        """Give the same without the sentences, as if they had never been said."""
        left = [
            [t for i, t in enumerate(row) if i not in gone]
            for row, gone in zip(self.prompts, self.sentences, strict=True)
        ]
        return dataclasses.replace(self, prompts=left)


def right(model: Decoder, asked: Asked, batched: Cut | Recorder | None = None) -> Tensor:
    """Say of which prompts the model's first choice is the answer, (prompts,) bool."""
    found = []
    with torch.inference_mode():
        for i in range(0, len(asked.prompts), ROWS):
            rows = asked.prompts[i : i + ROWS]
            if batched is not None:
                batched.first = i
            forest = dataclasses.replace(Forest.ragged(rows), prompted=True)
            hidden, _ = model.hidden(forest, keep_state=False)
            last = torch.tensor([len(row) for row in rows]).cumsum(0) - 1
            choice = model.logits(hidden[last]).argmax(-1)
            found.append(choice == torch.tensor(asked.answers[i : i + ROWS]))
    return torch.cat(found)


@contextmanager
def reducing(model: Decoder, reducer: Any) -> Iterator[Any]:
    """Let the model drop tokens so, for a while."""
    before, model.reducer = model.reducer, reducer
    try:
        yield reducer
    finally:
        model.reducer = before


@dataclass
class Cut:
    """Drops given places of each prompt after one layer; a decoder's `reducer`.

    `first` is the number of the first prompt of the pass.
    """

    layer: int
    gone: list[range]
    first: int = 0
    chunk: None = None
    drop: None = None

    def begin(self, forest: Forest) -> Cut:  # noqa: ARG002
        return self

    def watch(self, layer: int, forest: Forest) -> Watch | None:
        return Watch(forest, self.choose) if layer == self.layer else None

    def choose(self, shown: Shown) -> Tensor:
        lengths = torch.tensor(shown.stage.lengths)[:, None]
        keep = torch.arange(shown.stage.length) < lengths
        for row, gone in zip(keep, self.gone[self.first :], strict=False):
            row[gone.start : gone.stop] = False
        return keep


@dataclass
class Recorder(TokenReducer):
    """Notes which places of each prompt every layer keeps."""

    first: int = 0
    kept: dict[int, list[set[int]]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, reducer: Any) -> Recorder:
        given = {f.name: getattr(reducer, f.name) for f in dataclasses.fields(TokenReducer)}
        return cls(**{**given, "accounts": {}})

    def note(self, layer: int, scores: Tensor, keep: Tensor, shown: Shown) -> None:  # noqa: ARG002
        places = shown.stage.places.expand_as(keep)
        found = [set(row[k].tolist()) for row, k in zip(places, keep, strict=True)]
        self.kept.setdefault(layer, []).extend(found)


if __name__ == "__main__":
    main()
