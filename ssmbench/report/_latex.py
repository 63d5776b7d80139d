"""Tables for a paper, and all of a report as one LaTeX document.

A table is a float of its own with booktabs rules, its notes under it, and a label; it needs the
packages of `PACKAGES`. One that is longer than a page is a `longtable`.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from ssmbench.report._latex_text import latex_prose, latex_text
from ssmbench.report._render import blocks
from ssmbench.report._table import Table
from ssmbench.report._text import heading, parts, sentence, texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ssmbench.report._build import Report
    from ssmbench.report._figure import Figure
    from ssmbench.report._text import Texts

PACKAGES = ("amssymb", "booktabs", "graphicx", "longtable")
_PAGE_ROWS = 38
# Columns of text: in footnote size on a landscape page, before a table is split into several.
_WIDTH = 165
_WIDE_CELL = 60


def document(report: Report) -> str:
    """Make a document that compiles by itself; it shows the tables of tables/ and figures/."""
    lines = [
        "% latexmk -pdf report.tex, or pdflatex three times: long tables find their widths then.",
        *(f"% {line}" for line in _about(report)),
        r"\documentclass[a4paper,10pt]{article}",
        r"\usepackage[a4paper,landscape,margin=1.5cm]{geometry}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage[utf8]{inputenc}",
        *(rf"\usepackage{{{name}}}" for name in PACKAGES),
        r"\setlength{\tabcolsep}{4pt}",
        rf"\title{{{latex_text(report.title)}}}",
        r"\author{ssmbench report}",
        r"\date{}",
        r"\begin{document}",
        r"\maketitle",
    ]
    lines += [rf"\noindent\textbf{{{latex_prose(line)}}}\par" for line in report.provenance.lines]
    for group in report.groups:
        lines += ["", rf"\section{{{latex_text(group.title)}}}"]
        for item in group.items:
            if isinstance(item, Table):
                lines += [rf"\input{{tables/{item.name}.tex}}"]
            else:
                lines += _figure(item, heading(item.title, group.title))
        lines.append(r"\clearpage")
    return "\n".join([*lines, r"\end{document}", ""])


def table(item: Table, *, comments: Sequence[str] = ()) -> str:
    r"""Make one table, to be read by `\input`.

    Args:
        item: the table.
        comments: lines that stand above it as comments.
    """
    shown = texts(item)
    needs = ", ".join(PACKAGES)
    lines = [*(f"% {line}" for line in comments), f"% needs the packages {needs}"]
    found = list(blocks(item, shown.rows, _WIDTH))
    for number, block in enumerate(found, start=1):
        part = f" ({number} of {len(found)})" if len(found) > 1 else ""
        label = f"tab:{item.name}" + (f"-{number}" if number > 1 else "")
        caption = rf"\caption{{{latex_prose(_caption(item) + part)}}}\label{{{label}}}"
        make = _long if len(item.rows) > _PAGE_ROWS else _float
        lines += make(item, shown, block, caption)
    return "\n".join([*lines, ""])


def _caption(item: Table) -> str:
    return " ".join([item.title, *(f"({warning})" for warning in item.warnings)])


def _float(item: Table, shown: Texts, block: list[int], caption: str) -> Iterator[str]:
    yield from (r"\begin{table}[htbp]", r"\centering", caption, r"\footnotesize")
    yield r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
    yield rf"\begin{{tabular}}{{{_alignment(item, block)}}}"
    yield from (r"\toprule", *_head(item, block), r"\midrule", *_body(item, shown, block))
    yield from (r"\bottomrule", r"\end{tabular}}")
    yield from _notes(item, shown, block)
    yield r"\end{table}"


def _long(item: Table, shown: Texts, block: list[int], caption: str) -> Iterator[str]:
    head = list(_head(item, block))
    yield from (r"{\footnotesize", rf"\begin{{longtable}}{{{_alignment(item, block)}}}")
    yield from (caption + r"\\", r"\toprule", *head, r"\midrule", r"\endfirsthead")
    yield from (r"\toprule", *head, r"\midrule", r"\endhead")
    yield from (r"\bottomrule", r"\endfoot")
    yield from (*_body(item, shown, block), r"\end{longtable}}")
    yield from _notes(item, shown, block)


def _alignment(item: Table, block: list[int]) -> str:
    """Give the columns' alignment; a column of long texts wraps."""
    signs = []
    for i in block:
        longest = max((len(row[i].text) for row in item.rows), default=0)
        wide = item.columns[i].align == "left" and longest > _WIDE_CELL
        signs.append(r"p{0.5\linewidth}" if wide else item.columns[i].align[0])
    return "".join(signs)


def _head(item: Table, block: list[int]) -> Iterator[str]:
    columns = [item.columns[i] for i in block]
    if any(c.group for c in columns):
        cells, rules, place = [], [], 1
        for group, members in groupby(columns, key=lambda c: c.group):
            n = len(list(members))
            if group:
                cells.append(rf"\multicolumn{{{n}}}{{c}}{{{latex_text(group)}}}")
                rules.append(rf"\cmidrule(lr){{{place}-{place + n - 1}}}")
            else:
                cells += [""] * n
            place += n
        yield " & ".join(cells) + r" \\" + "".join(rules)
    yield " & ".join(latex_text(c.title) for c in columns) + r" \\"


def _body(item: Table, shown: Texts, block: list[int]) -> Iterator[str]:
    above = None
    for number, row in enumerate(item.rows):
        starts = number in item.sections
        if number and starts:
            yield r"\midrule"
        cells = []
        for i in block:
            text = row[i].text
            if i == 0 and item.columns[0].key and text == above and not starts:
                text = ""  # The same model as above.
            cells.append(_cell(text, shown.numbers[number][i]))
        above = row[0].text
        yield " & ".join(cells) + r" \\"


def _cell(text: str, note: int | None) -> str:
    found = parts(text)
    value = latex_text(found.value)
    if found.certainty == "sure":
        value = rf"\textbf{{{value}}}"
    mark = rf"\textsuperscript{{{note}}}" if note else ""
    return latex_text(found.mark) + value + latex_text(found.spread) + mark


def _notes(item: Table, shown: Texts, block: list[int]) -> Iterator[str]:
    """Give the notes, and those footnotes that these columns refer to."""
    used = {line[i] for line in shown.numbers for i in block}
    feet = [(n, text) for n, text in enumerate(shown.footnotes, start=1) if n in used]
    if not (item.notes or feet):
        return
    yield r"\par\smallskip\begin{minipage}{0.98\linewidth}\scriptsize\raggedright"
    yield from (latex_prose(sentence(note)) + r"\par" for note in item.notes)
    for number, note in feet:
        yield rf"\textsuperscript{{{number}}} {latex_prose(note)}\par"
    yield r"\end{minipage}"


def _figure(item: Figure, title: str) -> Iterator[str]:
    if item.draw is None:
        yield rf"\par\noindent No figure ``{latex_text(title)}'': "
        yield latex_prose(sentence(item.reason or "nothing to draw")) + r"\par"
        return
    caption = latex_prose(" ".join([sentence(title), item.caption]))
    yield from (r"\begin{figure}[htbp]", r"\centering")
    yield (
        rf"\includegraphics[width={item.size[0]:g}in,height=0.8\textheight,keepaspectratio]"
        rf"{{figures/{item.name}.pdf}}"
    )
    yield rf"\caption{{{caption}}}\label{{fig:{item.name}}}"
    yield r"\end{figure}"


def _about(report: Report) -> Iterator[str]:
    """Say in comments what the numbers are from, the grids included."""
    yield from report.provenance.lines
    for source, facts in report.provenance.facts:
        yield f"run {source.name}"
        for fact in facts:
            count = "" if fact.n is None else f" ({fact.n} {fact.of})"
            yield f"  {fact.about}: {fact.value}{count}"
        yield from (f"  | {line}" for line in source.grid.splitlines())
