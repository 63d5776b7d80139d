"""What the evaluation tests share: a tiny tokenizer, tiny models, a tiny data folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

from ssmbench.models import checkpoint
from ssmbench.suites._context import Context

if TYPE_CHECKING:
    from pathlib import Path

    from ssmbench.models.decoder import Decoder

VOCABULARY = 120
TEXT = (
    "the cat sat on the mat and the dog ran to the house where a bird sang all day long. "
    "Question: who is in the garden? Answer: the old man with a red hat, who never speaks."
)
END = "<|endoftext|>"


def tiny_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        show_progress=False,
        initial_alphabet=sorted(set(TEXT.replace(" ", "Ġ"))),
    )
    bpe.train_from_iterator([TEXT], trainer)
    names = {"bos_token": END, "eos_token": END, "unk_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names, **options)


def tiny_mamba() -> MambaForCausalLM:
    return MambaForCausalLM(
        MambaConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8,
            time_step_rank=4,
        )
    )  # fmt: skip


def tiny_mamba2(vocabulary: int = VOCABULARY) -> Mamba2ForCausalLM:
    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_heads=4, head_dim=16,
            state_size=16, n_groups=1, chunk_size=32, tie_word_embeddings=True,
        )
    )  # fmt: skip


def tiny_gpt_neox() -> GPTNeoXForCausalLM:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, rotary_pct=0.25,
        )
    )  # fmt: skip


def both(theirs: Any, folder: Path, *, seed: int = 0) -> tuple[Any, Decoder]:
    """Give one set of random weights as a transformers model and as ours."""
    torch.manual_seed(seed)
    with torch.no_grad():  # wide enough that scores differ between continuations
        for name, weight in theirs.named_parameters():
            if weight.ndim == 2 and "A_log" not in name:
                weight.normal_(0, 0.3)
    theirs.eval().save_pretrained(folder)
    return theirs, checkpoint.load(str(folder))


def context_of(model: Decoder, tokenizer: Any, scratch: Path, **changes: Any) -> Context:
    usual = {
        "dense": lambda: model,
        "data": None,
        "limit": None,
        "seed": 0,
        "batch_tokens": 512,
        "report": lambda _step, _done, _total: None,
    }
    return Context(model=model, tokenizer=tokenizer, scratch=scratch, **{**usual, **changes})


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_data(folder: Path) -> Path:
    """Write a data folder in the documented layout, a few invented documents a task."""
    people = ("the cat", "the dog", "a bird", "the old man")
    lambada = [
        {"text": f"{p} sat on the mat and {p} ran to the {w}"}
        for p in people
        for w in ("house", "garden")
    ]
    write_lines(folder / "lambada_openai/lambada_test.jsonl", lambada)
    hellaswag = [
        {
            "activity_label": "Red hat",
            "ctx_a": f"{p} sat [header] on the mat.",
            "ctx_b": "then  it",
            "endings": [
                "ran to the house.",
                "sang [step] all day.",
                "sat.",
                "never speaks, who is in.",
            ],
            "label": str(i % 4),
        }
        for i, p in enumerate(people)
    ]
    write_lines(folder / "hellaswag/validation.jsonl", hellaswag)
    piqa = [
        {
            "goal": f"who is {p}?",
            "sol1": f"{p} in a red hat",
            "sol2": f"{p} in a garden",
            "label": i % 2,
        }
        for i, p in enumerate(people)
    ]
    write_lines(folder / "piqa/validation.jsonl", piqa)
    write_lines(
        folder / "piqa/train.jsonl", [{**row, "goal": f"TRAIN {row['goal']}"} for row in piqa]
    )
    arc = [
        {
            "question": f"where is {p}?",
            "choices": {
                "text": ["house", "garden", "mat", "the long day"][: 4 - i % 2],
                "label": ["A", "B", "C", "D"][: 4 - i % 2],
            },
            "answerKey": "ABC"[i % 3],
        }
        for i, p in enumerate(people)
    ]
    for level in ("ARC-Easy", "ARC-Challenge"):
        for split in ("train", "validation", "test"):
            write_lines(folder / f"arc/{level}/{split}.jsonl", arc)
    winogrande = [
        {
            "sentence": f"{p} ran to the dog because _ sat on the mat.",
            "option1": p,
            "option2": "the dog",
            "answer": str(1 + i % 2),
        }
        for i, p in enumerate(people)
    ]
    for split in ("train", "validation"):
        write_lines(folder / f"winogrande/{split}.jsonl", winogrande)
    pages = [
        {"page": f" = The {p} = \n \n {p} sat on the mat , and sang all day . \n"} for p in people
    ]
    for split in ("test", "validation"):
        write_lines(folder / f"wikitext-2-raw/{split}.pages.jsonl", pages)
    (folder / "wikitext-2-raw/wiki.test.raw").write_text("".join(p["page"] for p in pages))
    return folder
