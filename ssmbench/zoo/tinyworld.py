"""TinyWorld: short stories in a small language whose answers need what was said long before.

A story puts things into places, lets them be moved, given away and painted, and asks about
them in between. The world is tracked while the story is told, so every answer is known:

    mia put red ball in box . tom moved ball to bag . where is ball ? bag .

There are no articles: what belongs together then fits into a convolution of four words.

Splits are disjoint by construction: the set of facts that opens a story decides, by a
hash, the one split that may tell it. Only `fine_tune` shares its facts, with `train`: it is
what the models were trained on, told anew.
"""

from __future__ import annotations

import hashlib
import random
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1

PERSONS = {
    "mia": "she", "anna": "she", "lucy": "she", "emma": "she", "rose": "she",
    "tom": "he", "ben": "he", "sam": "he", "max": "he", "paul": "he",
}  # fmt: skip
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "pink")
THINGS = (
    "ball", "book", "cup", "hat", "key", "ring", "coin", "drum", "kite", "lamp", "shoe", "spoon",
)  # fmt: skip
PLACES = ("box", "bag", "barn", "cave", "chest", "drawer", "garden", "kitchen", "tower", "well")
FILLERS = (
    "it began to rain .",
    "sun was warm .",
    "some birds sang .",
    "day was long .",
)
EOS, UNK = "<eos>", "<unk>"
FUNCTION_WORDS = (
    "put", "in", ".", "moved", "to", "gave", "painted", "where", "is", "?", "what", "colour",
    "whose", "later", "found", "then", "took", "from", "get", ",", "open", "that", "wants",
)  # fmt: skip

N_BUCKETS = 16
SPLITS: dict[str, tuple[int, ...]] = {
    "train": tuple(range(8)),
    "fine_tune": tuple(range(8)),
    "calibration": (8,),
    "evaluation": (9,),
    "tw_last_word": (10,),
    "tw_ending": (11,),
    "tw_pair": (12,),
    "tw_facts_easy": (13,),
    "tw_facts_hard": (14,),
    "tw_pronoun": (15,),
}

Kind = Literal["where", "colour", "whose", "found", "took", "fetch", "wants"]
FORWARD: tuple[Kind, ...] = ("where", "colour", "whose", "found", "fetch")
OF_OWNER: tuple[Kind, ...] = ("took", "wants")


class Fact(NamedTuple):
    """What is true of one thing: whose it is, its colour and the place where it lies."""

    person: str
    colour: str
    thing: str
    place: str


class Sentence(NamedTuple):
    """Words, and the positions among them that the story so far determines."""

    words: tuple[str, ...]
    answers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Shape:
    """How long and how tangled a story is; all are counts, ranges are inclusive."""

    facts: tuple[int, int] = (2, 6)
    changes: tuple[int, int] = (0, 3)
    questions: tuple[int, int] = (8, 12)
    fillers: tuple[int, int] = (0, 2)


STANDARD = Shape()


def vocabulary() -> tuple[str, ...]:
    """List every word of the language once, `<eos>` and `<unk>` first."""
    words = [EOS, UNK, *FUNCTION_WORDS, *PERSONS, "she", "he", *COLOURS, *THINGS, *PLACES]
    words += [word for filler in FILLERS for word in filler.split()]
    return tuple(dict.fromkeys(words))


def generator(split: str, seed: int) -> random.Random:
    """Give the random stream of a split and seed, from a hash over both."""
    key = f"tinyworld/{VERSION}/{split}/{seed}".encode()
    return random.Random(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))


def bucket(facts: list[Fact]) -> int:
    """Hash a story's opening facts, whatever their order, to 0 … N_BUCKETS - 1."""
    return zlib.crc32(repr(sorted(tuple(f) for f in facts)).encode()) % N_BUCKETS


def opening(rng: random.Random, split: str, n_facts: int) -> list[Fact]:
    """Draw facts that this split may tell: no two share a person, a thing or a place."""
    while True:
        facts = [
            Fact(*parts)
            for parts in zip(
                rng.sample(list(PERSONS), n_facts),
                rng.choices(COLOURS, k=n_facts),
                rng.sample(THINGS, n_facts),
                rng.sample(PLACES, n_facts),
                strict=True,
            )
        ]
        if bucket(facts) in SPLITS[split]:
            return facts


def put(fact: Fact) -> Sentence:
    """State a fact, as in `mia put red ball in box`."""
    text = f"{fact.person} put {fact.colour} {fact.thing} in {fact.place} ."
    return Sentence(tuple(text.split()))


def ask(kind: Kind, fact: Fact, other: str = "tom") -> Sentence:
    """Say a sentence that the state of the world completes; its answers are marked.

    Args:
        kind: the form; `took` and `wants` presume that the owner has nothing else.
        fact: the thing as it is now.
        other: who acts in `found`, anyone at all.
    """
    person, colour, thing, place = fact
    she = PERSONS[person]
    text, answers = {
        "where": (f"where is {thing} ? {place} .", (4,)),
        "colour": (f"what colour is {thing} ? {colour} .", (5,)),
        "whose": (f"whose is {thing} ? {person} .", (4,)),
        "found": (f"later {other} found {colour} {thing} in {place} .", (6,)),
        "fetch": (f"to get {thing} , open {place} .", (5,)),
        "took": (f"then {person} took {colour} {thing} from {place} .", (3, 4, 6)),
        "wants": (f"{she} , that is {person} , wants {colour} {thing} .", (7, 8)),
    }[kind]
    return Sentence(tuple(text.split()), answers)


class World:
    """The state of a story: every thing's owner, colour and place, changed by events in place."""

    def __init__(self, rng: random.Random, facts: list[Fact]) -> None:
        self._rng = rng
        self._opening = tuple(facts)
        self._now = {fact.thing: fact for fact in facts}

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What is true now, in the order in which the things were first named."""
        return tuple(self._now[fact.thing] for fact in self._opening)

    def owned(self) -> tuple[Fact, ...]:
        """Give the facts whose owner has this one thing only."""
        owners = [fact.person for fact in self.facts]
        return tuple(fact for fact in self.facts if owners.count(fact.person) == 1)

    def change(self, thing: str | None = None) -> Sentence:
        """Let one event happen, to `thing` or to any, and say it."""
        rng = self._rng
        fact = self._now[thing or rng.choice(self.facts).thing]
        actor = rng.choice([p for p in self._cast() if p != fact.person])
        event = rng.choice(("move", "move", "give", "paint"))
        if event == "move":
            taken = {f.place for f in self.facts}
            place = rng.choice([p for p in PLACES if p not in taken])
            self._now[fact.thing] = fact._replace(place=place)
            text = f"{actor} moved {fact.thing} to {place} ."
        elif event == "give":
            self._now[fact.thing] = fact._replace(person=actor)
            text = f"{fact.person} gave {fact.thing} to {actor} ."
        else:
            colour = rng.choice([c for c in COLOURS if c != fact.colour])
            self._now[fact.thing] = fact._replace(colour=colour)
            text = f"{actor} painted {fact.thing} {colour} ."
        return Sentence(tuple(text.split()))

    def question(self, *, besides: str | None = None) -> Sentence:
        """Ask anything that has exactly one answer now, but not about the thing `besides`."""
        rng = self._rng
        facts = [fact for fact in self.facts if fact.thing != besides]
        owned = [fact for fact in self.owned() if fact.thing != besides]
        if owned and rng.random() < 2 / 7:
            return ask(rng.choice(OF_OWNER), rng.choice(owned))
        other = rng.choice(self._cast())
        return ask(rng.choice(FORWARD), rng.choice(facts), other)

    def _cast(self) -> list[str]:
        """Those in the story, and one from outside, so that there are always two."""
        cast = dict.fromkeys(f.person for f in (*self._opening, *self.facts))
        stranger = self._rng.choice([p for p in PERSONS if p not in cast] or list(cast))
        return [*cast, stranger]


def story(rng: random.Random, split: str, shape: Shape = STANDARD) -> list[Sentence]:
    """Tell one whole story with its questions, ending in `<eos>`."""
    facts = opening(rng, split, rng.randint(*shape.facts))
    world = World(rng, facts)
    sentences = [put(fact) for fact in facts]
    for _ in range(rng.randint(*shape.fillers)):
        at = rng.randint(1, len(sentences))
        sentences.insert(at, Sentence(tuple(rng.choice(FILLERS).split())))
    n_questions = rng.randint(*shape.questions)
    n_changes = rng.randint(*shape.changes)
    # Changes fall anywhere among the questions, so that some come before all of them.
    turns = sorted(rng.randint(0, n_questions * 2 // 3) for _ in range(n_changes))
    for turn in range(n_questions):
        sentences += [world.change() for at in turns if at == turn]
        sentences.append(world.question())
    sentences.append(Sentence((EOS,)))
    return sentences


def stories(split: str, *, seed: int, shape: Shape = STANDARD) -> Iterator[list[Sentence]]:
    """Tell stories of a split without end; the same seed tells the same ones."""
    rng = generator(split, seed)
    while True:
        yield story(rng, split, shape)


def text(split: str, n_tokens: int, seed: int) -> str:
    """Give exactly `n_tokens` words of a split's stories, one after another, `<eos>` between.

    `split` is "train", "fine_tune", "calibration" or "evaluation"; words are separated by one
    blank.
    """
    words: list[str] = []
    for sentences in stories(split, seed=seed):
        words += [word for sentence in sentences for word in sentence.words]
        if len(words) >= n_tokens:
            break
    return " ".join(words[:n_tokens])
