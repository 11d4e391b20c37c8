"""Signs outside of ASCII, as people and models type them, in the notation that math-verify reads; and decoration."""

from __future__ import annotations

import re

_SIGNS = {
    "−": "-", "–": "-", "﹣": "-", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "±": r"\pm ",
    "≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≠": r"\neq ", "≈": r"\approx ",
    "∞": r"\infty ", "π": r"\pi ", "∅": r"\emptyset ", "∪": r"\cup ", "∩": r"\cap ", "∠": r"\angle ",
    "△": r"\triangle ", "⊥": r"\perp ", "∥": r"\parallel ", "≅": r"\cong ", "∽": r"\sim ", "⊙": r"\odot ",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "°": r"^{\circ}", "²": "^{2}", "³": "^{3}", "％": r"\%",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
}  # fmt: skip
# Full-width forms of ASCII, and the punctuation of Chinese texts.
_WIDE = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != 0xFF05}
_WIDE |= {"。": ".", "、": ",", "\u3000": " ", "\u00a0": " ", "「": " ", "」": " "}
_TO_ASCII = str.maketrans(_WIDE)
_TO_LATEX = str.maketrans(_SIGNS)
_ROOT = re.compile(r"√\s*(?:(\d+(?:\.\d+)?|[A-Za-z])|\(([^()]*)\))")
# And, or: between two results of a Chinese text.
_CJK_JOIN = re.compile(r"(?<=[0-9A-Za-z)}\]$°%])\s*(?:或者|以及|或|和|与|及|且)\s*(?=[-+±√π$\\(0-9A-Za-z])")
_EXPONENT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?!\w)")
_BLANKS_OF_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+")
# math-verify drops units, but not these with an exponent. A last m^2 may be a variable.
_SQUARE_UNIT = re.compile(r"(?<=[\d\s}])(mm|cm|dm|km)\s?\^\s?\{?[23]\}?$")
_DASHES = str.maketrans("−–", "--")
_WRAPPERS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\\[,;:! ]|~|\\(?:quad|qquad)\b")
_SIZES = re.compile(r"\\(?:left|right|displaystyle|bigl?|bigr)(?![a-zA-Z])")
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,4}\{")
DELIMITERS = re.compile(r"\\[()\[\]]|\$")


def plain_forms(text: str) -> str:
    """Full-width letters, digits and punctuation as ASCII, and commas for 和 and 或 between two results."""
    return _CJK_JOIN.sub(", ", text.translate(_TO_ASCII))


def latex_signs(text: str) -> str:
    """Mathematical signs as LaTeX commands, each with a space behind it."""
    return _ROOT.sub(r"\\sqrt{\1\2}", text).replace("√", r"\sqrt").translate(_TO_LATEX)


def to_latex(text: str) -> str:
    """Mathematical signs as LaTeX commands, 3e8 as a power of ten, 10 000 and 5 cm² as 10000 and 5 cm."""
    text = text.strip()
    if _BLANKS_OF_THOUSANDS.fullmatch(text):
        return text.replace(" ", "")
    text = latex_signs(text).replace(r"\varnothing", r"\emptyset").replace(r"\$", " ")
    return _SQUARE_UNIT.sub(r"\1", _EXPONENT.sub(r"\1\\times10^{\2}", text))


def plain(text: str) -> str:
    """The text without LaTeX's wrappers, delimiters, spacing and sizes, bold marks and a final full stop."""
    text = _WRAPPERS.sub(r"\1", plain_forms(text).translate(_DASHES)).replace("**", "")
    text = DELIMITERS.sub(" ", _SIZES.sub("", _SPACES.sub(" ", text)))
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return " ".join(text.split()).strip(" ,;:").removesuffix(".").strip()


def boxed(text: str) -> list[str]:
    """The contents of all `\\boxed{...}` and `\\fbox{...}`, outermost ones, in order; unclosed ones do not count."""
    found, at = [], 0
    while (start := _next_box(text, at)) >= 0:
        end, depth = start, 1
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if depth:  # it would swallow the rest of the text
            break
        found.append(text[start : end - 1].strip())
        at = end
    return [content for content in found if content]


def _next_box(text: str, at: int) -> int:
    """Where the next box's content begins, or -1."""
    found = _BOX.search(text, at)
    return found.end() if found else -1
