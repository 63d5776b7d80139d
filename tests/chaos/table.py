"""What a chaos run found, as docs/reliability.md shows it."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.faults import DECK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chaos.trial import Result

BEGIN, END = "<!-- chaos -->\n", "<!-- /chaos -->\n"


def markdown(result: Result, *, command: str, minutes: float, skipped: Mapping[str, str]) -> str:
    """Give the table of one chaos run, with what made it.

    Args:
        result: its counts.
        command: the command line.
        minutes: how long it took.
        skipped: kinds of faults that were left out, and why.
    """
    rows = ["| fault | what it does | times |", "|---|---|--:|"]
    for fault in DECK:
        text = (fault.does.__doc__ or "").strip().splitlines()[0]
        times = skipped.get(fault.name, str(result.faults[fault.name]))
        rows.append(f"| {fault.name} | {text} | {times} |")
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in ("ray", "torch", "polars"))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    about = (
        f"`{command}` on {date}: {minutes:.0f} minutes, {os.cpu_count()} cores "
        f"({_processor()}), Linux {platform.release()}, Python {platform.python_version()}, "
        f"{versions}, ssmbench {metadata.version('ssmbench')}."
    )
    counts = (
        f"{result.n_runs} runs, {result.n_drivers} drivers (of which {result.n_early} stopped by "
        f"themselves with a sentence and were started again), {result.n_reads:,} looks by a "
        f"reader, {len(result.wrong)} other findings."
    )
    return "\n".join([about, "", *rows, "", counts, "", f"    {result.last_line}", ""])


def fill_in(page: Path, text: str) -> None:
    """Put a text between the marks of a page."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.machine()
