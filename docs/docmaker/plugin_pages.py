"""Pages of suites and families, and what the pages of methods have from the code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docmaker.text import DOCS, NOTE, cell, fill, first_line, parameter_table
from ssmbench import plugins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def suite_page() -> str:
    """List the suites with their parameters."""
    lines = [NOTE, "# Suites", ""]
    lines += [
        "A suite is what is measured on every cell. Its parameters stand beside its name:",
        "",
        "```yaml",
        "suites:",
        "  - zero_shot",
        "  - {suite: perplexity, data: wikitext}",
        "```",
        "",
        "`ssmbench suites` lists them. A suite of your own is one file: "
        "[adding a suite](how-to/suite.md).",
        "",
    ]
    for name in plugins.names("suite"):
        module = plugins.load("suite", name)
        lines += [f"## `{name}`", "", first_line(module), "", *about(module)]
        if module.Params.model_fields:
            lines += ["", *parameter_table(module.Params)]
        lines.append("")
    return "\n".join(lines)


def family_page() -> str:
    """List the families."""
    lines = [NOTE, "# Families", ""]
    lines += [
        "A family is an architecture. A model's family is read from its files; a grid may also "
        "name it, with `family:`. The models that a grid may name are in "
        "[the catalogue](grid-file.md#catalogue). A family of your own is one file: "
        "[adding a family](how-to/family.md).",
        "",
        "| name | is recognised by |",
        "|---|---|",
    ]
    for name in plugins.names("family"):
        lines.append(f"| `{name}` | {cell(plugins.load('family', name).LOOKS_FOR)} |")
    return "\n".join([*lines, ""])


def method_pages() -> dict[str, str]:
    """Give the pages of methods: their words, with what follows from the code filled in."""
    pages = {}
    for name in plugins.names("method"):
        module = plugins.load("method", name)
        file = f"methods/{name}.md"
        lines = about(module)
        if module.Params.model_fields:
            lines += ["", *parameter_table(module.Params)]
        pages[file] = fill((DOCS / file).read_text("utf-8"), "parameters", lines)
    return pages


def method_index() -> str:
    """Give the page that lists all methods."""
    file = "methods/index.md"
    rows = ["| method | in a sentence | source | depends on |", "|---|---|---|---|"]
    for name in plugins.names("method"):
        module = plugins.load("method", name)
        needs = ", ".join(dependencies(module)) or "the model alone"
        told = (cell(first_line(module)), cell(module.SOURCE), needs)
        rows.append(f"| [`{name}`]({name}.md) | {' | '.join(told)} |")
    return fill((DOCS / file).read_text("utf-8"), "methods", rows)


def about(module: ModuleType) -> list[str]:
    """Say a plugin's source, needs and kind in one line."""
    facts = [f"Version {module.VERSION}"]
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
