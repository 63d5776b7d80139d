"""Count the tokens of the six tasks' requests, for benchmarks where the tasks cannot be had.

    python benchmarks/task_lengths.py --data DIR [--limit 200]

Writes benchmarks/task_lengths.json: for each document the tokens that all of its requests begin
with, and each request's context and continuation. Numbers only; no text.
"""

from __future__ import annotations

import argparse
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import transformers

from ssmbench.suites._lm import DecoderLM
from ssmbench.suites._tasks import load_tasks
from ssmbench.suites.zero_shot import SIX

FILE = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of local task data")
    parser.add_argument("--tokenizer", default="tokenizers/gpt-neox-20b", help="in that folder")
    parser.add_argument("--limit", type=int, default=200)
    args = parser.parse_args()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.data / args.tokenizer)
    lengths = {task: documents(task, tokenizer, args) for task in SIX}
    lines = [f" {json.dumps(task)}: {json.dumps(found)}" for task, found in lengths.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for task, found in lengths.items():
        print(f"{task}: {len(found)} documents, {sum(len(d['requests']) for d in found)} requests")


def documents(task: str, tokenizer: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Give each document's shared tokens, and its requests' context and continuation."""
    loaded = load_tasks([task], shots=0, data=args.data, configs={}).tasks[task]
    loaded.build_all_requests(limit=args.limit)
    encode = DecoderLM._encode_pair
    found = []
    for _, requests in groupby(loaded.instances, key=lambda r: r.doc_id):
        pairs = [encode(_Encoder(tokenizer), *r.args) for r in requests]
        rows = [context + continuation for context, continuation in pairs]
        shared = 0
        while len({row[shared] if shared < len(row) else None for row in rows}) == 1 < len(rows):
            shared += 1
        found.append({"shared": shared, "requests": [[len(c), len(t)] for c, t in pairs]})
    return found


class _Encoder:
    """As much of an lm-eval model as its rule for encoding pairs asks for."""

    backend = "causal"
    AUTO_MODEL_CLASS = transformers.AutoModelForCausalLM

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def tok_encode(self, text: str, **_: Any) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


if __name__ == "__main__":
    main()
