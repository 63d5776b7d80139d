"""Figures as SVG, PNG and PDF: the same bytes from the same numbers on every machine.

matplotlib is imported at the first figure (1 to 4 s), never for tables alone. Text stays text in
SVG: small, found by a search, and set in the reader's sans-serif where DejaVu Sans is missing.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from matplotlib.figure import Figure as Canvas

    from ssmbench.report._figure import Figure

PNG_DPI = 200
_SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "ssmbench",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # No panel has ticks above it, which matplotlib would search for at every drawing: a sixth of
    # the time.
    "axes.titley": 1.0,
}
_SVG_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_PDF_METADATA = dict.fromkeys(("CreationDate", "Creator", "Producer"))
_ROOT = re.compile(r"<svg\b[^>]*>")
_STYLE = re.compile(r"<defs>\s*<style\b.*?</style>\s*</defs>\s*", re.DOTALL)
_TAG = re.compile(r"<[^<>]+>")
_PATH = re.compile(r'\bd="[^"]+"')
_LONG = re.compile(r"-?\d+\.\d{3,}")
_ID = re.compile(r'\sid="([^"]+)"')
_REFERENCE = re.compile(r'(\b(?:xlink:)?href=")#([^"]+)"|url\(#([^)]+)\)')


def svg(figure: Figure) -> str:
    """Draw as an SVG element that can stand in a page beside others, or in a file of its own.

    Its ids begin with the figure's name; it has a `title` and a `desc` for those who cannot see it.
    """
    with _settings():
        canvas = _drawn(figure)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", metadata=_SVG_METADATA)
    drawn = buffer.getvalue()
    root = _ROOT.search(drawn)
    assert root is not None
    width, height = canvas.get_size_inches() * 72
    prefix = f"{figure.name}."  # No name of a table or figure has a dot.
    # Its style sheet would count for the whole page; what it says is inherited from the root.
    body = _STYLE.sub("", drawn[root.end() :], count=1)
    used = {m[2] or m[3] for m in _REFERENCE.finditer(body)}
    body = _TAG.sub(lambda tag: _tidied(tag[0], prefix, used), body)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' width="{width / 72 * 96:.0f}" height="{height / 72 * 96:.0f}"'
        f' viewBox="0 0 {width:g} {height:g}" role="img"'
        ' style="stroke-linejoin: round; stroke-linecap: butt">\n'
        f"<title>{escape(figure.title)}</title>\n"
        f"<desc>{escape(figure.alt or figure.caption)}</desc>\n"
        + re.sub(r"\n\s*", "\n", body.strip())
        + "\n"
    )


def png(figure: Figure) -> bytes:
    """Draw as PNG at 200 dots per inch."""
    return _bytes(figure, format="png", dpi=PNG_DPI, metadata={"Software": None})


def pdf(figure: Figure) -> bytes:
    """Draw as PDF, for LaTeX."""
    return _bytes(figure, format="pdf", metadata=_PDF_METADATA)


def _tidied(tag: str, prefix: str, used: Container[str]) -> str:
    """Prefix the ids that are referred to, drop others, round paths to 1/100 of a point."""
    tag = _PATH.sub(lambda d: _LONG.sub(lambda n: f"{float(n[0]):.2f}", d[0]), tag)
    tag = _ID.sub(lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", tag)
    return _REFERENCE.sub(
        lambda m: f'{m[1]}#{prefix}{m[2]}"' if m[1] else f"url(#{prefix}{m[3]})", tag
    )


def _bytes(figure: Figure, **options: Any) -> bytes:
    with _settings():
        buffer = io.BytesIO()
        _drawn(figure).savefig(buffer, **options)
    return buffer.getvalue()


def _drawn(figure: Figure) -> Canvas:
    """Call the figure's own function; what it raises is a bug and says which figure it is of."""
    from matplotlib.figure import Figure as Canvas

    assert figure.draw is not None
    canvas = Canvas(figsize=figure.size, layout="constrained")
    try:
        figure.draw(canvas)
    except Exception as problem:
        problem.add_note(f"while drawing the figure '{figure.name}'")
        raise
    return canvas


@contextmanager
def _settings() -> Iterator[None]:
    """Set matplotlib's own defaults and ours: the user's matplotlibrc has no say."""
    import matplotlib.style

    with matplotlib.style.context(["default", _SETTINGS]):
        yield
