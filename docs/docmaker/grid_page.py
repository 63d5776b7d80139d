"""The page of the grid file, and the keys of a policy, from their schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docmaker.text import DOCS, NOTE, cell, fill, first_line, show
from ssmbench import plugins
from ssmbench.grid.catalogue import catalogue
from ssmbench.grid.fine_tune import PRESETS, make_recipe
from ssmbench.grid.fine_tune_entry import FineTuneEntry, settings
from ssmbench.grid.forms import Part
from ssmbench.grid.schema import Grid
from ssmbench.models import flops
from ssmbench.report._policy import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel


def grid_page() -> str:
    """Describe every key that a grid file may have, from the schema."""
    lines = [NOTE, "# The grid file", ""]
    lines += [
        "YAML 1.2. Every combination of model, method, ratio, training and seed is a cell, and "
        "every suite is measured on every cell. The dense model of each model is always a cell "
        "too; a cell that several entries mean is one. Seeds multiply only the cells in which "
        "something is drawn: calibration windows, a method's own choices, or all that a training "
        "draws. Paths are relative to the grid file. All mistakes are reported at once, with line "
        "and column; `ssmbench validate GRID` looks for them and runs nothing. Editors can check "
        "a grid against [grid.schema.json](grid.schema.json). How FLOPs are counted and matched: "
        "[flops.md](flops.md).",
        "",
    ]
    for part, title in sections(Grid, "The grid"):
        lines += [f"## {title}", "", f"{first_line(part)}", "", *field_table(part), ""]
        if part is FineTuneEntry:
            lines += [*trainings(), ""]
    lines += ["## Catalogue", "", "Models that a grid may name.", "", *catalogue_table(), ""]
    return "\n".join(lines)


def compare_page() -> str:
    """List the keys that a rule of a policy may have."""
    page = (DOCS / "compare.md").read_text("utf-8")
    return fill(page, "rules", field_table(Rule))


def trainings() -> list[str]:
    """Say which cells a training is for, and list what the presets fill in."""
    names = {name: f"`{name}` ({', '.join(p.kinds)})" for name, p in PRESETS.items()}
    recipes = {name: make_recipe(PRESETS[name].kinds[0]) for name in PRESETS}
    rows = [f"| value | {' | '.join(names.values())} |", "|---" * (1 + len(names)) + "|"]
    for key in settings():
        values = [getattr(recipe, key) for recipe in recipes.values()]
        if any(value is not None for value in values):
            rows.append(f"| `{key}` | {' | '.join(map(show, values))} |")
    return [
        "`kd` and `ce` train with all tokens, so that they are for methods that drop none, and "
        "`dense+sparse` is for the others. Without `methods`, an entry means every cell that it is "
        "for; one that is named and not meant is a mistake. Where `none` is not listed, only dense "
        "models are measured untrained. Every trained cell has the suite `training`, its loss "
        "curve, which cannot be listed. How it works: [fine-tuning.md](fine-tuning.md).",
        "",
        *rows,
        "",
        "Nothing stands where the cell's own is taken, or nothing applies. The Simba paper states "
        "neither `batch` and `length` nor which weights are trained; these are ours.",
    ]


def sections(
    part: type[Part], title: str, above: tuple[str, ...] = ()
) -> Iterator[tuple[type[Part], str]]:
    """Go through the schema's parts, each once, in the order of their first mention."""
    yield part, title
    for name, field in part.model_fields.items():
        for inner in parts_in(field.annotation):
            path = (*above, name)
            yield from sections(inner, f"`{'.'.join(path)}`", path)


def parts_in(annotation: Any) -> Iterator[type[Part]]:
    """Find the parts inside a type such as `tuple[ModelEntry, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from parts_in(inner)


def field_table(part: type[BaseModel]) -> list[str]:
    """List a part's keys with their defaults and meanings."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in part.model_fields.items():
        default = "required" if field.is_required() else show(field.get_default())
        # A plugin's own parameters stand beside the other keys, not under one.
        key = "*its own*" if name == "params" else f"`{name}`"
        rows.append(
            f"| {key} | {'' if name == 'params' else default} | {cell(field.description or '')} |"
        )
    return rows


def catalogue_table() -> list[str]:
    """List the catalogue: name, family, source, parameters, and whether it can run yet."""
    rows = ["| name | family | source | parameters |", "|---|---|---|---|"]
    for known in catalogue().values():
        description = known.describe()
        count = flops.parameters(description).model if description else known.parameters
        size = f"{count:,}" if count else "in the package"
        ready = known.family in plugins.names("family")
        family = known.family if ready else f"{known.family} (not implemented yet)"
        rows.append(f"| `{known.name}` | {family} | {known.source} | {size} |")
    return rows
