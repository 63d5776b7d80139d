"""The commands and code blocks of the pages: what tests run, what they only parse, and why."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docmaker.text import DOCS, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = "<!-- run -->"
"""Stands above a block that tests run, in a folder with the page's titled blocks as files."""

# The first that fits counts. Whatever fits none must be run, or get a reason here.
PARSED = (
    (r"^ssmbench .*(--address|s3://|/mnt/)", "cluster"),
    (r"^ssmbench run (?!grids/).*", "yours"),
    (r"^ssmbench run .*(--data|--model) ", "yours"),
    (r"^ssmbench run grids/(quickstart|\S*toy\S*)\.yaml", "minutes"),
    (r"^ssmbench run grids/", "gpu"),
    (r"^ssmbench compress (?!zoo-)", "gpu"),
    (r"^ssmbench (logs|cancel|doctor|gate|submit)\b", "yours"),
    (r"^ssmbench report .*(--open|html|md)", "browser"),
    (r"^(make|python|\.venv/bin/python) ", "minutes"),
)
REASONS = {
    "cluster": "needs a cluster, its dashboard or a bucket; `tests/test_submit.py`, "
    "`tests/test_store_s3.py` and `tests/cluster` run such commands against real servers on "
    "this machine",
    "gpu": "needs a GPU, or downloads from the hub; the grid itself is checked",
    "yours": "names a folder, cell or grid of the reader's own; its tests run it on theirs",
    "minutes": "takes minutes, or is itself the tests or this documentation; the grid, the "
    "target, or the script's options are checked",
    "browser": "opens a browser or draws every figure; the report's own tests do that",
}
_FENCE = re.compile(r"^(`{3,})\s*(\S*)(.*)$")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One code block of a page.

    Attributes:
        language: of a fenced block; empty for an indented one.
        title: the file that it is; empty for none.
        info: what else stands after the language.
        text: its lines.
        line: where it begins in the page, from 1.
        runs: whether tests run it.
    """

    language: str
    title: str
    info: str
    text: str
    line: int
    runs: bool


def blocks(page: str) -> Iterator[Block]:
    """Give the code blocks of a Markdown page, fenced and indented."""
    lines, i, runs = page.splitlines(), 0, False
    while i < len(lines):
        fence = _FENCE.match(lines[i])
        blank = i == 0 or not lines[i - 1].strip()
        if fence:
            end = next(j for j in range(i + 1, len(lines)) if lines[j].startswith(fence[1]))
            title = _TITLE.search(fence[3])
            text = "\n".join(lines[i + 1 : end]) + "\n"
            yield Block(fence[2], title[1] if title else "", fence[3].strip(), text, i + 1, runs)
            i, runs = end + 1, False
        elif lines[i].startswith("    ") and blank:
            end = i
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = "\n".join(line[4:] for line in lines[i:end]).rstrip() + "\n"
            yield Block("", "", "", text, i + 1, runs)
            i, runs = end, False
        else:
            runs = lines[i].strip() == RUN or (runs and not lines[i].strip())
            i += 1


def commands(block: Block) -> Iterator[list[str]]:
    """Give the commands of a block as lists of words; none of a block in another language."""
    if block.language not in ("", "bash", "sh", "console"):
        return
    text = re.sub(r"\\\n\s*", " ", block.text)
    if re.search(r"^\$ ", text, re.MULTILINE):
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    waiting = ""
    for line in text.splitlines():
        waiting = f"{waiting}\n{line}" if waiting else line
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:
            continue  # A quotation that goes on in the next line.
        waiting = ""
        for part in _parts(words):
            if part:
                yield part


def _parts(words: list[str]) -> Iterator[list[str]]:
    """Split at && and ;, and leave out what is no part of a command."""
    part: list[str] = []
    for word in words:
        if word in ("&&", ";", "|"):
            yield part
            part = []
        elif word != "&":
            part.append(word)
    yield part


def mentioned(page: str) -> Iterator[list[str]]:
    """Give the ssmbench commands that stand in sentences, as lists of words."""
    for block in blocks(page):
        page = page.replace(block.text, "\n")
    for found in re.findall(r"`(ssmbench\s+[a-z]+[^`]*)`", page):
        text = " ".join(found.split())
        if not re.search(r"[…\[\]|]", text):
            yield shlex.split(text)


def why_parsed(words: list[str]) -> str | None:
    """Give the reason why a command is only parsed, or None for one that tests run."""
    line = " ".join(words)
    return next((reason for pattern, reason in PARSED if re.search(pattern, line)), None)


def page() -> str:
    """Give the page that says what is checked, with what is only parsed and why."""
    file = "checks.md"
    found: dict[str, dict[str, None]] = {reason: {} for reason in REASONS}
    for source in pages():
        for block in blocks(source.read_text("utf-8")):
            for words in commands(block):
                reason = why_parsed(words)
                if reason and not block.runs and words[0] in ("ssmbench", "make"):
                    found[reason][" ".join(words[:3])] = None
    rows = ["| commands such as | why |", "|---|---|"]
    rows += [
        f"| {', '.join(f'`{c}`' for c in sorted(names))} | {REASONS[reason]} |"
        for reason, names in found.items()
        if names
    ]
    return fill((DOCS / file).read_text("utf-8"), "parsed", rows)


def pages() -> list[Path]:
    """Give the Markdown files whose commands are checked."""
    found = sorted(DOCS.rglob("*.md"))
    return [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *found]
