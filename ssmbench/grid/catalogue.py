"""The models that a grid may name: where each is, and its architecture as published."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from ssmbench import plugins
from ssmbench.errors import UnknownName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssmbench.models.description import Description


@dataclass(frozen=True)
class Known:
    """One model of the catalogue.

    Attributes:
        name: what grids and tables call it.
        source: a hub id, or "zoo:NAME".
        family: its family's name.
        tokenizer: a hub id, or None where it lies with the model.
        config: the published config.json, as far as it describes the architecture; None where
            it comes with the package.
        mamba_config: likewise the file beside it that Llama hybrids have.
        parameters: of the whole model, tied embeddings counted once; None for the zoo.
        published: the paper that the numbers are from.
    """

    name: str
    source: str
    family: str
    tokenizer: str | None = None
    config: Mapping[str, Any] | None = field(default=None, hash=False)
    mamba_config: Mapping[str, Any] | None = field(default=None, hash=False)
    parameters: int | None = None
    published: str | None = None

    @property
    def is_zoo(self) -> bool:
        """Whether the model comes with the package."""
        return self.source.startswith("zoo:")

    def describe(self) -> Description | None:
        """Give the architecture; None where only the model's own files say it."""
        if self.config is None:
            return None
        files = {"config.json": self.config}
        if self.mamba_config is not None:
            files["mamba_config.json"] = self.mamba_config
        result: Description = plugins.load("family", self.family).describe(files, self.name)
        return result


@cache
def catalogue() -> Mapping[str, Known]:
    """Give every model of the catalogue by name, in the file's order."""
    text = resources.files("ssmbench.grid").joinpath("catalogue.yaml").read_text("utf-8")
    entries = YAML(typ="safe").load(text)
    return {
        name: Known(name=name, published=entry.pop("from", None), **entry)
        for name, entry in entries.items()
    }


def find(name: str) -> Known:
    """Give the model of this name.

    Raises:
        UnknownName: the catalogue has none; the message lists those that it has.
    """
    if name not in catalogue():
        raise UnknownName("model", name, catalogue())
    return catalogue()[name]


@cache
def by_source() -> Mapping[str, Known]:
    """Give every model of the catalogue by its hub id or "zoo:NAME"."""
    return {known.source: known for known in catalogue().values()}
