"""Signs outside of ASCII, as people and models type them, in the notation that math-verify reads."""

from __future__ import annotations

import re

_SIGNS = {
    "−": "-", "–": "-", "﹣": "-", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "±": r"\pm ",
    "≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≠": r"\neq ", "≈": r"\approx ",
    "∞": r"\infty ", "π": r"\pi ", "∅": r"\emptyset ", "∪": r"\cup ", "∩": r"\cap ", "∠": r"\angle ",
    "△": r"\triangle ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "°": r"^{\circ}", "²": "^{2}", "³": "^{3}", "％": r"\%",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
}  # fmt: skip
# Full-width forms of ASCII, and the punctuation of Chinese texts.
_WIDE = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != 0xFF05}
_WIDE |= {"。": ".", "、": ",", "\u3000": " ", "\u00a0": " ", "「": " ", "」": " "}
_TO_ASCII = str.maketrans(_WIDE)
_TO_LATEX = str.maketrans(_SIGNS)
_ROOT = re.compile(r"√\s*(\d+(?:\.\d+)?|[A-Za-z])")
_EXPONENT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?!\w)")
_BLANKS_OF_THOUSANDS = re.compile(r"-?\d{1,3}(?: \d{3})+")
# math-verify drops units, but not these with an exponent. A last m^2 may be a variable.
_SQUARE_UNIT = re.compile(r"(?<=[\d\s}])(mm|cm|dm|km)\s?\^\s?\{?[23]\}?$")


def plain_forms(text: str) -> str:
    """Full-width letters, digits and punctuation as ASCII."""
    return text.translate(_TO_ASCII)


def to_latex(text: str) -> str:
    """Mathematical signs as LaTeX commands, 3e8 as a power of ten, 10 000 and 5 cm² as 10000 and 5 cm."""
    text = text.strip()
    if _BLANKS_OF_THOUSANDS.fullmatch(text):
        return text.replace(" ", "")
    text = _ROOT.sub(r"\\sqrt{\1}", text).replace("√", r"\sqrt").translate(_TO_LATEX)
    text = text.replace(r"\varnothing", r"\emptyset").replace(r"\$", " ")
    return _SQUARE_UNIT.sub(r"\1", _EXPONENT.sub(r"\1\\times10^{\2}", text))
