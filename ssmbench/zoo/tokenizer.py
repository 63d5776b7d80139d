"""TinyWorld's tokenizer: one token a word, words parted by blanks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ssmbench.zoo import tinyworld

if TYPE_CHECKING:
    from pathlib import Path


def save(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, as transformers' AutoTokenizer reads them.

    Token ids are positions in `tinyworld.vocabulary()`; `<eos>` also pads.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = tinyworld.vocabulary()
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=tinyworld.UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(
        [AddedToken(word, special=True) for word in (tinyworld.EOS, tinyworld.UNK)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": tinyworld.EOS,
        "pad_token": tinyworld.EOS,
        "unk_token": tinyworld.UNK,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 20,
    }
    text = json.dumps(config, indent=1)
    (folder / "tokenizer_config.json").write_text(text + "\n", "utf-8")
