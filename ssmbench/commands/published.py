"""What the papers published, and which of it contradicts itself."""

from __future__ import annotations

from typing import Literal

from ssmbench import console
from ssmbench.errors import DONE


def published(*, audit: bool = False, format: Literal["table", "csv", "md"] = "table") -> int:
    """Show the numbers that the papers published, each with what is known against it.

    Args:
        audit: only the averages that contradict the mean of their own rows, and their number.
        format: table, csv (plain numbers) or md (Markdown).
    """
    from ssmbench.report import _render
    from ssmbench.report.published import show

    tables = [show.audit_table()] if audit else show.tables()
    if format == "table":
        console.renderables(_render.terminal(table, width=console.width()) for table in tables)
    elif format == "md":
        console.write(_render.markdown(tables, title="Published numbers"))
    elif audit:
        console.write(_render.csv_text(tables[0]))
    else:
        console.write("\n".join(f"# {t.name}\n{_render.csv_text(t)}" for t in tables))
    if audit and format == "csv":
        console.note(show.verdict())  # which is no line of a CSV file
    elif audit:
        console.result(show.verdict())
    return DONE
