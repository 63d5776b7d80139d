"""Time our scoring against lm-eval's HFLM, with the same weights, taking turns in one process.

    python benchmarks/six_tasks.py --data DIR [--model mamba-130m] [--out FILE]
    python benchmarks/six_tasks.py --data DIR --tasks arc_challenge --shots 25 --limit 50 --hflm 6

A random-weight mamba2-130m (or mamba-130m) is made in transformers' layout and loaded by both.
Ours scores the first `--limit` documents of each task. HFLM would take hours for them, so it
scores `--hflm` of them: the documents are dealt out over `--turns`, those of a turn are ordered
by length and cut into equal parts, and of each part one is drawn. Each turn times both, on the
requests as lm-eval makes them, tokenization included; times are per document, and a ratio is of
one turn. `length_ratio` says how long HFLM's documents are beside ours.

Random weights amplify what float32 leaves out, by differing amounts. So the last turn's shortest
documents are scored once more in double precision, where ours and HFLM's log-likelihoods must agree
within 1e-9 of their size, and there is shown how far from that both are in float32.

transformers' Mamba-2 pads every call to its `chunk_size` of 256 tokens; `--hf-chunk-size 64` gives
it what is best on a CPU, which is not its default.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import targets
import torch
import transformers
from double import in_double
from lm_eval.models.huggingface import HFLM
from measuring import Report, in_all, spread, stratified

from ssmbench.kernels.memory import keep_freed_memory
from ssmbench.models import checkpoint
from ssmbench.suites._lm import DecoderLM
from ssmbench.suites._tasks import load_tasks
from ssmbench.suites.zero_shot import SIX

SHAPES = {
    "mamba2-130m": transformers.Mamba2Config(
        vocab_size=50288, hidden_size=768, num_hidden_layers=24, num_heads=24, head_dim=64,
        state_size=128, n_groups=1, tie_word_embeddings=True,
    ),
    "mamba-130m": transformers.MambaConfig(
        vocab_size=50280, hidden_size=768, num_hidden_layers=24, state_size=16
    ),
}  # fmt: skip
TOLERANCE = 1e-9  # of a log-likelihood of tens to hundreds of nats, in float64
CHECKED = 2  # documents of a task

Document = list[Any]
"""All requests of one document, as lm-eval makes them."""


def main() -> None:
    keep_freed_memory()  # as every attempt of a grid does
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    report = Report("six_tasks")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        args.tokenizer or args.data / "tokenizers/gpt-neox-20b"
    )
    theirs, ours = both_models(args.model)
    if args.hf_chunk_size:
        for layer in theirs.backbone.layers:
            layer.mixer.chunk_size = args.hf_chunk_size
    reference = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=args.batch_size)
    shared = DecoderLM(ours, tokenizer, batch_tokens=args.batch_tokens)
    print(f"{'task':16}{'ours s/doc':>11}{'HFLM s/doc':>11}{'ratio':>7}{'max Δ nats':>12}")
    for task in args.tasks:
        row = compare(documents_of(task, args), shared, reference, args)
        report.results.append({"task": task, **row})
        print(
            f"{task:16}{row['ours_s']['median']:11.3f}{row['hflm_s']['median']:11.3f}"
            f"{row['ratio']['median']:7.2f}{row['max_difference_nats']:12.1e}",
            flush=True,
        )
        errors = row["errors"]
        if errors["double"] > TOLERANCE:
            raise SystemExit(f"{task}: the two do not compute the same: {errors}")
    ratios = in_all([row["seconds_per_document"] for row in report.results])
    print(f"{'all':38}{spread(ratios)['median']:7.2f}")
    target = targets.scoring(
        args.model, args.tasks, shots=args.shots, limit=args.limit, chunk=args.hf_chunk_size
    )
    report.targets[target] = spread(ratios)
    report.write(args.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of local task data")
    parser.add_argument("--tokenizer", help="default: tokenizers/gpt-neox-20b in the data folder")
    parser.add_argument("--model", choices=SHAPES, default="mamba2-130m")
    parser.add_argument("--tasks", nargs="+", default=list(SIX))
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--limit", type=int, default=200, help="documents of a task that we score")
    parser.add_argument("--hflm", type=int, default=12, help="documents of those that HFLM scores")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the draw of HFLM's documents")
    parser.add_argument("--batch-size", type=int, default=16, help="HFLM's, in requests")
    parser.add_argument("--hf-chunk-size", type=int, help="of transformers' Mamba-2; default 256")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="ours")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--quick", action="store_true", help="a trial: a few documents, one turn")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.limit, args.hflm, args.turns, args.shots = 2, 1, 1, min(args.shots, 2)
    if not args.turns <= args.hflm <= args.limit:
        parser.error("every turn needs a document for HFLM: --turns <= --hflm <= --limit")
    return args


def both_models(name: str) -> tuple[Any, Any]:
    """Make random weights and load them as a transformers model and as ours."""
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(SHAPES[name]).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = checkpoint.load(folder)
    return theirs, ours


def documents_of(task: str, args: argparse.Namespace) -> list[Document]:
    """Build the requests of a task's first documents."""
    loaded = load_tasks([task], shots=args.shots, data=args.data, configs={}).tasks[task]
    loaded.build_all_requests(limit=args.limit)
    grouped = itertools.groupby(loaded.instances, key=lambda request: request.doc_id)
    return [list(requests) for _, requests in grouped]


def compare(
    documents: list[Document], ours: DecoderLM, theirs: HFLM, args: argparse.Namespace
) -> dict[str, Any]:
    """Score each turn's documents by ours and its draw by HFLM; times are per document."""
    draw = random.Random(args.seed)
    for lm in (ours, theirs):
        lm.loglikelihood(documents[0], disable_tqdm=True)
    seconds: dict[str, list[float]] = {"ours": [], "hflm": []}
    lengths: dict[str, list[float]] = {"ours": [], "hflm": []}
    pairs: list[tuple[float, float]] = []
    for turn in range(args.turns):
        dealt = documents[turn :: args.turns]
        drawn = stratified(dealt, args.hflm // args.turns, draw, size=length)
        sides = [("ours", ours, dealt), ("hflm", theirs, drawn)]
        scores = {}
        for name, lm, given in sides if turn % 2 == 0 else sides[::-1]:
            requests = [request for document in given for request in document]
            start = time.perf_counter()
            found = lm.loglikelihood(requests, disable_tqdm=True)
            seconds[name].append((time.perf_counter() - start) / len(given))
            lengths[name].append(sum(map(length, given)) / len(given))
            scores[name] = {id(r): s[0] for r, s in zip(requests, found, strict=True)}
        pairs += [(scores["ours"][key], s) for key, s in scores["hflm"].items()]
    return {
        "n_documents": len(documents),
        "n_documents_hflm": args.turns * (args.hflm // args.turns),
        "length_ratio": round(sum(lengths["hflm"]) / sum(lengths["ours"]), 3),
        "ours_s": spread(seconds["ours"]),
        "hflm_s": spread(seconds["hflm"]),
        "ratio": spread([a / b for a, b in zip(seconds["hflm"], seconds["ours"], strict=True)]),
        "max_difference_nats": max(abs(a - b) for a, b in pairs),
        "errors": errors_of(scores, sorted(drawn, key=length)[:CHECKED], ours, theirs),
        "seconds_per_document": seconds,
    }


def errors_of(
    scores: dict[str, dict[int, float]], documents: list[Document], ours: DecoderLM, theirs: HFLM
) -> dict[str, float]:
    """Score documents by both in double precision.

    Returns:
        double: the largest difference of the two, as a fraction of its size; ours_nats and
        hflm_nats: the root mean square over requests of how far each is from that in float32.
    """
    requests = [request for document in documents for request in document]
    wide = copy.deepcopy(ours.model).double(), copy.deepcopy(theirs.model).double()
    lms = (
        DecoderLM(wide[0], ours.tokenizer, batch_tokens=ours.batch_tokens),
        HFLM(pretrained=wide[1], tokenizer=theirs.tokenizer, batch_size=theirs.batch_size),
    )
    with in_double():
        mine, exact = ([s for s, _ in lm.loglikelihood(requests, disable_tqdm=True)] for lm in lms)
    pairs = list(zip(requests, exact, strict=True))
    return {
        "double": max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(mine, exact, strict=True)),
        **{
            f"{name}_nats": (sum((its[id(r)] - e) ** 2 for r, e in pairs) / len(pairs)) ** 0.5
            for name, its in scores.items()
        },
    }


def length(document: Document) -> int:
    """Count the characters of all that a document asks to score, contexts for every choice."""
    return sum(len(part) for request in document for part in request.args)


if __name__ == "__main__":
    main()
