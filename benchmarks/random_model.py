"""Write a model of the catalogue with random weights, in its published layout.

    python benchmarks/random_model.py mamba2-130m FOLDER [--tokenizer TOKENIZER_FOLDER]

For trials of the whole path where the published weights cannot be had: the sizes and files
are those of the real model, the scores those of chance.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ssmbench.grid.catalogue import find
from ssmbench.models.checkpoint import save
from ssmbench.models.decoder import Decoder
from ssmbench.models.initialise import initialise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="folder whose files are copied beside")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    description = find(args.name).describe()
    if description is None:
        parser.error(f"{args.name}: the catalogue does not hold its sizes")
    model = Decoder(description)
    initialise(model, seed=args.seed)
    save(model, args.folder)
    if args.tokenizer:
        for file in args.tokenizer.iterdir():
            shutil.copy(file, args.folder)
    print(f"{args.folder}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
