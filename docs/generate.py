"""Write the pages of docs/ that follow from the code: `make docs`.

A test fails when they are stale.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmbench import plugins
from ssmbench.execute import policy
from ssmbench.grid.catalogue import catalogue
from ssmbench.grid.fine_tune import PRESETS, make_recipe
from ssmbench.grid.fine_tune_entry import FineTuneEntry, settings
from ssmbench.grid.forms import Part
from ssmbench.grid.schema import Grid, json_schema
from ssmbench.models import flops
from ssmbench.store import columns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from pydantic import BaseModel

DOCS = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py (`make docs`); edit the code, not this page. -->\n"


def pages() -> dict[str, str]:
    """Give every generated page: file name → text."""
    results = (DOCS / "results.md").read_text("utf-8")
    return {
        "grid-file.md": grid_page(),
        "plugins.md": plugin_page(),
        "faults.md": fault_page(),
        "results.md": columns.fill_in(results),
        "grid.schema.json": json.dumps(json_schema(), indent=1) + "\n",
    }


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


def fault_page() -> str:
    """Describe what follows from errors, from the policy."""
    changes = {
        "nothing": "",
        "halve_batch": "half the batch",
        "more_memory": "a machine with more memory; where there is none, half the batch",
        "elsewhere": "another machine, if there is one",
    }
    rows = ["| class | what happened | retries | pause | the next attempt gets |", "|" + "---|" * 5]
    for kind, rule in policy.POLICY.items():
        retries = "no limit" if rule.retries == math.inf else f"{rule.retries:g}"
        pause = f"{rule.wait_s:g} s, doubled each time" if rule.wait_s else ""
        rows.append(f"| `{kind}` | {rule.meaning} | {retries} | {pause} | {changes[rule.change]} |")
    text = (DOCS / "faults.in.md").read_text("utf-8")
    figures = {
        "TABLE": "\n".join(rows),
        "SUSPECT_CELLS": policy.SUSPECT_CELLS,
        "POISON_NODES": policy.POISON_NODES,
        "SILENT_UNREACHABLE_S": f"{policy.SILENT_UNREACHABLE_S:g}",
        "SILENT_S": f"{policy.SILENT_S:g}",
        "OVERDUE_S": f"{policy.OVERDUE_S:g}",
        "MORE_MEMORY": policy.MORE_MEMORY,
    }
    for name, value in figures.items():
        text = text.replace(f"{{{name}}}", str(value))
    return NOTE + text


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
            f"| {key} | {'' if name == 'params' else default} | {field.description or ''} |"
        )
    return rows


def show(value: Any) -> str:
    """Write a default as a grid would."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        items = (item.fine_tune if isinstance(item, FineTuneEntry) else item for item in value)
        return f"`[{', '.join(map(str, items))}]`"
    if isinstance(value, Part):
        return "see below"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


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


def plugin_page() -> str:
    """List methods and suites with their parameters."""
    lines = [NOTE, "# Methods, suites, families", ""]
    for kind in ("method", "suite"):
        lines += [f"## {kind.capitalize()}s", ""]
        for name in plugins.names(kind):
            module = plugins.load(kind, name)
            lines += [f"### `{name}`", "", first_line(module), "", *about(module)]
            if module.Params.model_fields:
                lines += ["", *parameter_table(module.Params)]
            lines.append("")
    lines += ["## Families", "", "| name | is recognised by |", "|---|---|"]
    for name in plugins.names("family"):
        lines.append(f"| `{name}` | {plugins.load('family', name).LOOKS_FOR} |")
    return "\n".join([*lines, ""])


def about(module: ModuleType) -> list[str]:
    """Say a plugin's source, needs and kind in one line."""
    facts = [f"version {module.VERSION}"]
    if hasattr(module, "SOURCE"):
        facts.append(f"source: {module.SOURCE}")
    if hasattr(module, "needs"):
        facts += [f"depends on: {needs}" for needs in dependencies(module)]
    if hasattr(module, "KIND"):
        facts.append(f"measures {'time' if module.KIND == 'timing' else 'quality'}")
    return ["; ".join(facts) + "."]


def dependencies(module: ModuleType) -> Iterator[str]:
    """Say what a method needs, and whether other parameters change that."""
    default = module.needs(module.Params())
    schema = module.Params.model_json_schema()["properties"] if module.Params.model_fields else {}
    others = (
        module.needs(module.Params(**{name: choice}))
        for name, field in schema.items()
        for choice in field.get("enum", ())
    )
    if all(other == default for other in others):
        yield from [", ".join(sorted(default))] if default else []
    else:
        yield f"{', '.join(sorted(default)) or 'nothing'}, unless set otherwise"


def parameter_table(params: type[BaseModel]) -> list[str]:
    """List a plugin's parameters with type, default and meaning."""
    rows = ["| parameter | default | choices or type | meaning |", "|---|---|---|---|"]
    schema = params.model_json_schema()["properties"]
    for name, field in params.model_fields.items():
        default = "required" if field.is_required() else show(field.get_default())
        kind = " · ".join(kinds(schema[name]))
        rows.append(f"| `{name}` | {default} | {kind} | {field.description or ''} |")
    return rows


def kinds(schema: dict[str, Any]) -> list[str]:
    """Give a parameter's choices, or its types."""
    inner = [kind for option in schema.get("anyOf", ()) for kind in kinds(option)]
    return inner or list(map(str, schema.get("enum", [schema.get("type", "")])))


def first_line(documented: Any) -> str:
    """Give a docstring's first line."""
    return (documented.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, "utf-8")
