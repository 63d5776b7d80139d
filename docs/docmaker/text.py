"""Pieces that several generated pages are made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmbench.grid.fine_tune_entry import FineTuneEntry
from ssmbench.grid.forms import Part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

DOCS = Path(__file__).parents[1]
NOTE = "<!-- Written by docs/generate.py (`make docs`); edit the code, not this page. -->\n"


def fill(page: str, name: str, lines: Iterable[str]) -> str:
    """Put lines between a page's marks `<!-- NAME -->` and `<!-- /NAME -->`.

    Raises:
        ValueError: the page lacks one of them.
    """
    before, begin, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise ValueError(f"expected the marks <!-- {name} --> and <!-- /{name} --> in: {page[:60]}")
    return before + begin + "\n" + "\n".join(lines).strip() + "\n\n" + end + after


def show(value: Any) -> str:
    """Write a default as a grid would."""
    if value is None or value == "":
        return ""
    if isinstance(value, tuple):
        items = (item.fine_tune if isinstance(item, FineTuneEntry) else item for item in value)
        return f"`[{', '.join(map(str, items))}]`"
    if isinstance(value, Part):
        return "see below"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def parameter_table(params: type[BaseModel]) -> list[str]:
    """List a plugin's parameters with type, default and meaning."""
    rows = ["| parameter | default | choices or type | meaning |", "|---|---|---|---|"]
    schema = params.model_json_schema()["properties"]
    for name, field in params.model_fields.items():
        default = "required" if field.is_required() else show(field.get_default())
        kind = " · ".join(kinds(schema[name]))
        rows.append(f"| `{name}` | {default} | {kind} | {cell(field.description or '')} |")
    return rows


def kinds(schema: dict[str, Any]) -> list[str]:
    """Give a parameter's choices, or its types."""
    inner = [kind for option in schema.get("anyOf", ()) for kind in kinds(option)]
    return inner or list(map(str, schema.get("enum", [schema.get("type", "")])))


def cell(text: str) -> str:
    """Write a text so that it can stand in a table: a bar would begin the next column."""
    return text.replace("|", "\\|")


def first_line(documented: Any) -> str:
    """Give a docstring's first line."""
    return (documented.__doc__ or "").strip().splitlines()[0]
