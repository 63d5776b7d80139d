"""The page of faults, from the retry policy."""

from __future__ import annotations

import math

from docmaker.text import DOCS, NOTE
from ssmbench.execute import policy


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
