"""Writing checkpoints: in ssmbench's own layout, which holds any model, or in a published one.

Every tensor is written in the dtype that it has, or rounded to that of the model's weights where
it was held wider; the file says it for each, so no config does.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import save_file

from ssmbench import plugins
from ssmbench.errors import CheckpointError
from ssmbench.models import layout as own
from ssmbench.models.keys import rename

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from torch import Tensor

    from ssmbench.models.decoder import Decoder
    from ssmbench.models.description import Description

Layout = Literal["ssmbench", "upstream", "transformers"]
LAYOUTS: tuple[Layout, ...] = ("ssmbench", "upstream", "transformers")

_LAYER = re.compile(r"layers\.(\d+)\.")


class Published(NamedTuple):
    """A model in a published layout: its JSON files, and how its tensors are called there.

    Attributes:
        family: the module.
        description: without the layers that do nothing.
        files: file name → content.
        keys: names of the layout → ours.
        busy: which of the model's layers those of `description` are.
    """

    family: ModuleType
    description: Description
    files: dict[str, dict[str, Any]]
    keys: dict[str, str]
    busy: list[int]

    def weights(self, ours: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give a model's tensors as the layout has them."""
        number = {str(old): str(new) for new, old in enumerate(self.busy)}
        ours = {
            _LAYER.sub(lambda found: f"layers.{number[found[1]]}.", name): tensor
            for name, tensor in ours.items()
        }
        if hasattr(self.family, "to_upstream"):
            ours = self.family.to_upstream(ours, self.description)
        upstream = {name: theirs for theirs, name in reversed(self.keys.items())}
        renamed = {}
        for name, tensor in ours.items():
            theirs = rename(name, upstream)
            assert theirs is not None, name
            renamed[theirs] = tensor
        return renamed


def save(model: Decoder, folder: Path, *, layout: Layout = "upstream") -> None:
    """Write a model: config.json (and what else the layout has) and model.safetensors.

    `ssmbench` holds any model and is read back bit for bit. `upstream` is the layout that the
    family was published in and `transformers` that of transformers' own class; both drop layers
    that do nothing (no mixer, no MLP), and hold a model only where its config can say it all.

    Args:
        model: its tensors are written in the dtypes that they have. Of a model that only stores
            half precision (models/precision.py), all are written in that.
        folder: made where it is not there; files of the same names are replaced.
        layout: which layout to write.

    Raises:
        CheckpointError: the layout cannot say this model, or the family has no such layout; or
            the model drops tokens as it runs, which no weight says.
    """
    if model.reducer is not None:
        raise CheckpointError(
            "found a model that drops prompt tokens while it runs; expected one whose weights say "
            "all. Save it before that step: token pruning needs no checkpoint."
        )
    weights = dict(model.state_dict())
    if model.compute_dtype != model.dtype:
        weights = {name: tensor.to(model.dtype) for name, tensor in weights.items()}
    if model.description.tie_embeddings:
        del weights["lm_head.weight"]
    if layout == "ssmbench":
        files = {"config.json": own.config(model.description)}
    else:
        form = check(model.description, layout)
        files, weights = form.files, form.weights(weights)
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(weights, folder / "model.safetensors")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _write_weights(weights: dict[str, Tensor], path: Path) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be written: {_sentence(str(error))}") from error
    # safetensors writes for the owner alone; on a shared folder other users' workers must read.
    path.chmod(0o644)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def check(description: Description, layout: Layout) -> Published:
    """Give the published form of a model.

    Raises:
        CheckpointError: the layout cannot say this model, or the family has no such layout.
    """
    try:
        return _published(description, layout)
    except CheckpointError as error:
        raise CheckpointError(
            f"a {description.family} model cannot be written in the layout '{layout}': "
            f"{_sentence(str(error))} Write it with --layout ssmbench, which holds any model."
        ) from None


def _published(description: Description, layout: Layout) -> Published:
    family = plugins.load("family", description.family)
    busy = [i for i, layer in enumerate(description.layers) if layer.mixer or layer.mlp]
    if not busy:
        raise CheckpointError("found no layer with a mixer or an MLP; expected at least one")
    layers = tuple(description.layers[i] for i in busy)
    description = dataclasses.replace(description, layers=layers)
    keys, files = _layout_of(family, description, layout)
    # What is not in the config would be lost: it must say the whole description.
    lost = own.differences(description, family.describe(files, "the written config"))
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise CheckpointError(f"its config cannot say it, since {lost[0]}{more}")
    return Published(family, description, files, keys, busy)


def _layout_of(
    family: ModuleType, description: Description, layout: Layout
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Give a layout's names (theirs → ours) and its JSON files for a description."""
    if layout == "transformers":
        if not hasattr(family, "transformers"):
            raise CheckpointError("transformers has no class for this family")
        return family.TRANSFORMERS_KEYS, family.transformers(description)
    if not hasattr(family, "config"):
        raise CheckpointError("writing it is not implemented")
    return family.KEYS, family.config(description)
