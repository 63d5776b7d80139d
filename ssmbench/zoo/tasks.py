"""TinyWorld as lm-eval tasks: six kinds of question that mirror the six of the papers.

| task | mirrors | asks | choices |
|---|---|---|---|
| tw_last_word | lambada | the last word of a sentence about one of the first things | — |
| tw_ending | hellaswag | which ending fits what is known of the person | 4 |
| tw_pair | piqa | which of two places to open for a thing that was moved | 2 |
| tw_facts_easy | arc_easy | a fact, three facts told, nothing changed | 4 |
| tw_facts_hard | arc_challenge | a fact out of eight, four changes; also what was true | 4 |
| tw_pronoun | winogrande | whom "she" or "he" means, scored on what both could want | 2 |

The world is known, so one answer is right in every document and the best score is 1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ssmbench.zoo import tinyworld
from ssmbench.zoo.tinyworld import Fact, Kind, Sentence, World

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

Document = dict[str, Any]


class Known(NamedTuple):
    """What a task's accuracy can be: a guesser's, who knows the language only, and the best."""

    chance: float
    best: float


class Scene(NamedTuple):
    """A story so far: its words, and its world at the start and now."""

    words: list[str]
    world: World
    before: dict[str, Fact]


def scene(
    rng: random.Random,
    split: str,
    *,
    facts: int,
    changes: int = 0,
    fillers: int = 0,
    questions: int = 0,
    about: int | None = None,
) -> Scene:
    """Tell a story up to where a question may be asked.

    Args:
        rng: the split's stream.
        split: the task's name.
        facts: things put somewhere at the start.
        changes: events after that.
        fillers: sentences in between that say nothing.
        questions: questions answered on the way, none of them about thing number `about`.
        about: the thing, counted from 0 in order of telling, that will be asked about.
    """
    start = tinyworld.opening(rng, split, facts)
    world = World(rng, start)
    kept_back = None if about is None else start[about].thing
    later: list[Sentence] = []
    events = ["change"] * changes + ["filler"] * fillers + ["question"] * questions
    rng.shuffle(events)
    for event in events:
        if event == "change":
            later.append(world.change())
        elif event == "filler":
            later.append(Sentence(tuple(rng.choice(tinyworld.FILLERS).split())))
        else:
            later.append(world.question(besides=kept_back))
    sentences = [*(tinyworld.put(fact) for fact in start), *later]
    words = [word for sentence in sentences for word in sentence.words]
    return Scene(words, world, {fact.thing: fact for fact in start})


def last_word(rng: random.Random) -> Document:
    """A sentence whose last word, a place, was said long before."""
    about = rng.randrange(2)
    told = scene(rng, "tw_last_word", facts=5, changes=1, fillers=2, questions=2, about=about)
    fact = told.world.facts[about]
    asked = tinyworld.ask("found", fact, rng.choice(list(tinyworld.PERSONS)))
    end = asked.answers[-1]
    return {"context": _join(told.words, asked.words[:end]), "target": asked.words[end]}


def ending(rng: random.Random) -> Document:
    """Four endings that are told alike: one fits the person, three mix in other things."""
    told = scene(rng, "tw_ending", facts=4, changes=1, fillers=1)
    owned = told.world.owned()
    fact = rng.choice(owned)
    others = [f for f in told.world.facts if f.thing != fact.thing]
    one, two = rng.sample(others, 2)
    colour = rng.choice([c for c in tinyworld.COLOURS if c != fact.colour])
    wrong = (one, fact._replace(place=two.place), fact._replace(colour=colour))
    words = tinyworld.ask("took", fact).words
    endings = [(f"{f.colour} {f.thing} from {f.place} .") for f in (fact, *wrong)]
    return _choice(rng, _join(told.words, words[:3]), endings)


def pair(rng: random.Random) -> Document:
    """Two ways to get a thing: open the place where it is, or one where it is not."""
    told = scene(rng, "tw_pair", facts=4, changes=2, fillers=1)
    moved = [f for f in told.world.facts if f.place != told.before[f.thing].place]
    fact = rng.choice(moved or told.world.facts)
    elsewhere = [f.place for f in told.world.facts if f.thing != fact.thing]
    if moved and rng.random() < 0.5:
        elsewhere = [told.before[fact.thing].place]
    goal = f"to get {fact.thing} ,".split()
    choices = [f"open {place} ." for place in (fact.place, rng.choice(elsewhere))]
    return _choice(rng, _join(told.words, goal), choices)


def facts_easy(rng: random.Random) -> Document:
    """A fact out of three, just told."""
    return _fact_asked(rng, scene(rng, "tw_facts_easy", facts=3, fillers=1))


def facts_hard(rng: random.Random) -> Document:
    """A fact out of eight, changed or not, after four changes; what was true is a choice."""
    return _fact_asked(rng, scene(rng, "tw_facts_hard", facts=8, changes=4, fillers=1))


def _fact_asked(rng: random.Random, told: Scene) -> Document:
    fields: tuple[tuple[Kind, str, Sequence[str]], ...] = (
        ("where", "place", tinyworld.PLACES),
        ("colour", "colour", tinyworld.COLOURS),
        ("whose", "person", list(tinyworld.PERSONS)),
    )
    now = told.world.facts
    changed = [
        (fact, field)
        for fact in now
        for field in fields
        if getattr(fact, field[1]) != getattr(told.before[fact.thing], field[1])
    ]
    if changed and rng.random() < 0.5:
        fact, (kind, name, words) = rng.choice(changed)
    else:
        fact, (kind, name, words) = rng.choice(now), rng.choice(fields)
    right = getattr(fact, name)
    old = getattr(told.before[fact.thing], name)
    near = [getattr(f, name) for f in rng.sample(now, len(now))]
    far = rng.sample(list(words), len(words))
    choices = list(dict.fromkeys([right, old, *near, *far]))[:4]
    asked = tinyworld.ask(kind, fact)
    return _choice(rng, _join(told.words, asked.words[: asked.answers[0]]), choices)


def pronoun(rng: random.Random) -> Document:
    """Two persons whom the pronoun could mean; only one of them owns what is wanted."""
    while True:
        told = scene(rng, "tw_pronoun", facts=5, changes=1, fillers=1)
        owned = told.world.owned()
        pairs = [
            (a, b)
            for a in owned
            for b in owned
            if a.thing != b.thing and tinyworld.PERSONS[a.person] == tinyworld.PERSONS[b.person]
        ]
        if pairs:
            break
    fact, other = rng.choice(pairs)
    asked = tinyworld.ask("wants", fact).words
    contexts = [_join(told.words, tinyworld.ask("wants", f).words[:7]) for f in (fact, other)]
    order = rng.sample(range(2), 2)
    return {
        "contexts": [contexts[i] for i in order],
        "target": " ".join(asked[7:]),
        "answer": order.index(0),
    }


def _choice(rng: random.Random, context: str, choices: Sequence[str]) -> Document:
    """Shuffle the choices, of which the first is right."""
    order = rng.sample(range(len(choices)), len(choices))
    shuffled = [choices[i] for i in order]
    return {"context": context, "choices": shuffled, "answer": order.index(0)}


def _join(*parts: Iterable[str]) -> str:
    return " ".join(word for part in parts for word in part)


MAKERS: dict[str, Callable[[random.Random], Document]] = {
    "tw_last_word": last_word,
    "tw_ending": ending,
    "tw_pair": pair,
    "tw_facts_easy": facts_easy,
    "tw_facts_hard": facts_hard,
    "tw_pronoun": pronoun,
}
KNOWN = {
    "tw_last_word": Known(1 / len(tinyworld.PLACES), 1.0),
    "tw_ending": Known(1 / 4, 1.0),
    "tw_pair": Known(1 / 2, 1.0),
    "tw_facts_easy": Known(1 / 4, 1.0),
    "tw_facts_hard": Known(1 / 4, 1.0),
    "tw_pronoun": Known(1 / 2, 1.0),
}


def documents(task: str, *, n: int, seed: int) -> list[Document]:
    """Make `n` different documents of a task; fewer documents are the beginning of more."""
    rng = tinyworld.generator(task, seed)
    found: dict[str, Document] = {}
    while len(found) < n:
        document = MAKERS[task](rng)
        found.setdefault(json.dumps(document), document)
    return list(found.values())


def task_configs(folder: Path, *, n: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Write each task's documents to `folder` as NAME.jsonl and give its lm-eval configuration.

    Args:
        folder: an existing folder, which the configurations refer to.
        n: documents of each task.
        seed: which documents; the weights never saw any of them, whatever the seed.

    Returns:
        Task name → dictionary for lm-eval 0.4.13, with the documents as its test split.
    """
    return {task: _config(folder, task, n, seed) for task in MAKERS}


def _config(folder: Path, task: str, n: int, seed: int) -> dict[str, Any]:
    path = folder / f"{task}.jsonl"
    lines = [json.dumps(document) + "\n" for document in documents(task, n=n, seed=seed)]
    path.write_text("".join(lines), "utf-8")
    config: dict[str, Any] = {
        "task": task,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(path)},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "target_delimiter": " ",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": tinyworld.VERSION},
    }
    if task == "tw_last_word":
        # As lambada: lm-eval puts no delimiter before the target of this output type.
        form = {
            "output_type": "loglikelihood",
            "doc_to_text": "context",
            "doc_to_target": "{{' ' + target}}",
        }
    elif task == "tw_pronoun":
        # As winogrande: an integer as the text says that the choices are the contexts.
        form = {
            "output_type": "multiple_choice",
            "doc_to_text": "answer",
            "doc_to_choice": "contexts",
            "doc_to_target": "target",
        }
    else:
        form = {
            "output_type": "multiple_choice",
            "doc_to_text": "context",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
        }
    return config | form
