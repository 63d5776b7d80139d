"""Text for LaTeX: every character that means something there, or that its fonts lack, replaced."""

from __future__ import annotations

from ssmbench.report._text import prose

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    # Brackets after `\\` would be its argument.
    "[": "{[}",
    "]": "{]}",
    "\n": " ",
    "\t": " ",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "\u00a0": "~",
    "\u202f": r"\,",
    "\u2009": r"\,",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
}
_MATHS = {
    "−": "-",
    "±": r"\pm",
    "×": r"\times",
    "÷": r"\div",
    "·": r"\cdot",
    "≈": r"\approx",
    "≤": r"\leq",
    "≥": r"\geq",
    "≠": r"\neq",
    "≡": r"\equiv",
    "→": r"\rightarrow",
    "←": r"\leftarrow",
    "↔": r"\leftrightarrow",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "∞": r"\infty",
    "∑": r"\sum",
    "√": r"\surd",
    "∈": r"\in",
    "‖": r"\Vert",
    "⌊": r"\lfloor",
    "⌋": r"\rfloor",
    "▼": r"\blacktriangledown",
    "▲": r"\blacktriangle",
    "▽": r"\triangledown",
    "△": r"\vartriangle",
    "✓": r"\checkmark",
    "µ": r"\mu",
    "†": r"\dagger",
    "‡": r"\ddagger",
    "∗": r"\ast",
    "⁻": "^{-}",
}
_GREEK = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "delta": "δ",
    "epsilon": "ε",
    "eta": "η",
    "theta": "θ",
    "kappa": "κ",
    "lambda": "λ",
    "mu": "μ",
    "pi": "π",
    "rho": "ρ",
    "sigma": "σ",
    "tau": "τ",
    "phi": "φ",
    "chi": "χ",
    "omega": "ω",
    "Gamma": "Γ",
    "Delta": "Δ",
    "Sigma": "Σ",
    "Phi": "Φ",
    "Omega": "Ω",
}
_BARS = "▁▂▃▄▅▆▇█"


def _table() -> dict[int, str]:
    found = dict(_SPECIAL)
    found |= {sign: rf"\ensuremath{{{code}}}" for sign, code in _MATHS.items()}
    found |= {sign: rf"\ensuremath{{\{name}}}" for name, sign in _GREEK.items()}
    for i in range(10):
        found["⁰¹²³⁴⁵⁶⁷⁸⁹"[i]] = rf"\textsuperscript{{{i}}}"
        found["₀₁₂₃₄₅₆₇₈₉"[i]] = rf"\textsubscript{{{i}}}"
    for i, sign in enumerate(_BARS, start=1):
        found[sign] = rf"\rule{{0.4em}}{{{0.1 * i:.1f}em}}"
    return {ord(sign): code for sign, code in found.items()}


_TABLE = _table()
# What T1 fonts print as it is, beside ASCII.
_LETTERS = range(0xC0, 0x180)


def latex_text(text: str) -> str:
    """Escape a text; a character that LaTeX cannot print stands as its code, [U+2603]."""
    return "".join(map(_character, text))


def latex_prose(text: str) -> str:
    """Escape a sentence, with what stands between backticks in typewriter letters."""
    return prose(text, latex_text, lambda code: rf"\texttt{{{latex_text(code)}}}")


def _character(sign: str) -> str:
    known = _TABLE.get(ord(sign))
    if known is not None:
        return known
    if " " <= sign <= "~" or ord(sign) in _LETTERS:
        return sign
    return rf"\texttt{{{{[}}U+{ord(sign):04X}{{]}}}}"
