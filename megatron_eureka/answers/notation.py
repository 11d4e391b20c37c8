"""One normal form of mathematical texts: what people and models type differently and mean alike is written alike.

Every comparison is between normal forms. `$` stands around formulas where the text has any delimiters, Chinese
punctuation and full-width signs are ASCII, signs are LaTeX commands, and what says nothing is gone.
"""

from __future__ import annotations

import re

_SIGNS = {
    "−": "-", "–": "-", "﹣": "-", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "±": r"\pm ",
    "≤": r"\leq ", "≥": r"\geq ", "⩽": r"\leq ", "⩾": r"\geq ", "≠": r"\neq ", "≈": r"\approx ",
    "∞": r"\infty ", "π": r"\pi ", "∅": r"\emptyset ", "∪": r"\cup ", "∩": r"\cap ", "∠": r"\angle ",
    "△": r"\triangle ", "⊥": r"\perp ", "∥": r"\parallel ", "≅": r"\cong ", "∽": r"\sim ", "⊙": r"\odot ",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "∈": r"\in ", "…": r"\ldots ",
    "°": r"^{\circ}", "º": r"^{\circ}", "²": "^{2}", "³": "^{3}",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
}  # fmt: skip
# Full-width forms of ASCII, and the punctuation of Chinese texts.
_WIDE = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_WIDE |= {"。": ".", "、": ",", "\u3000": " ", "\u00a0": " ", "「": " ", "」": " "}
_TO_ASCII = str.maketrans(_WIDE)
_TO_LATEX = str.maketrans(_SIGNS)

_INSIDE = r"((?:[^{}]|\{[^{}]*\})*)"  # of braces, with one more pair in it
_STEPS: tuple[tuple[re.Pattern, str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        # And, or: between two results of a Chinese text.
        (r"(?<=[0-9A-Za-z)}\]$°%])\s*(?:或者|以及|或|和|与|及|且)\s*(?=[-+±√π$\\(0-9A-Za-z])", ", "),
        (r"\\(?:quantity|qty|SI)\s*\{([^{}]*)\}\s*\{" + _INSIDE + r"\}", r"\1 \2"),
        (r"\\(?:number|num)\s*\{\s*([^{}]*?)\s*\}", r"\1"),
        (r"\\unit\s*\{" + _INSIDE + r"\}", r" \1"),
        (r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox)\s*\{([^{}]*)\}", r"\1"),
        (r"\\(?:boldsymbol|bm|vec|overrightarrow)\s*(?:\{([^{}]*)\}|([A-Za-z]))", r" \1\2"),
        (r"\\ce\s*\{" + _INSIDE + r"\}", r"\1"),
        (r"\\(?:mathrm|mathbf)(?![A-Za-z{])", ""),
        (r"\$?\\?textdegree\$?|\\degree(?![A-Za-z])", r"^{\\circ}"),
        (r"(?<!\\)\\[()\[\]]|\$\$", "$"),
        (r"\\\$", " "),
        (r"\{,\}(?=\d{3})", ","),
        (r"(?<!\\)\\[,;:! ]|\\(?:quad|qquad)(?![A-Za-z])|(?<!\d)~|~(?!\d)", " "),
        (r"\\(?:left|right|displaystyle|bigl?|bigr)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(leq|geq|le|ge)(?:slant|q)?(?![A-Za-z])", r"\\\1"),
        (r"\\le(?![A-Za-z])", r"\\leq"),
        (r"\\ge(?![A-Za-z])", r"\\geq"),
        (r"\\varnothing", r"\\emptyset"),
        (r"\\(?:dots|cdots)(?![A-Za-z])|\.\.\.", r"\\ldots "),
        (r"\*\*", ""),
        (r"√\s*(?:(\d+(?:\.\d+)?|[A-Za-z])|\(([^()]*)\))", r"\\sqrt{\1\2}"),
        (r"√", r"\\sqrt"),
        (r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)|\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1\2}"),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"(?<![A-Za-z\\])(sin|cos|tan|log|ln)(?=\s*[(\d\\]|\s?[a-zα-ω](?![a-z]))", r"\\\1"),
    )
)
_LATER: tuple[tuple[re.Pattern, str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\{\s*\}\s*\^", "^"),  # {}^\circ
        (r"\{\{([^{}]*)\}\s*\^\s*\{([^{}]*)\}\}", r"{\1}^{\2}"),
        (r"\{(\d+(?:\.\d+)?)\}\s*\^", r"\1^"),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})", r"^{\\circ}"),
        (r"[ \t\r\f\v]+", " "),
    )
)
_AROUND_BOX = re.compile(r"(?:\$\$?|\\\(|\\\[)?\s*\\(?:boxed|fbox)\s*\{\}\s*(?:\$\$?|\\\)|\\\])?\s*\.?")
_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,4}\{")


def normal(text: str) -> str:
    """The normal form; texts that are meant alike become equal, but for spaces and the choice of formula."""
    text = to_ascii(text)
    for pattern, new in _STEPS:
        text = pattern.sub(new, text)
    text = text.translate(_TO_LATEX)
    for pattern, new in _LATER:
        text = pattern.sub(new, text)
    return text.strip()


def to_ascii(text: str) -> str:
    """Full-width letters, digits and punctuation as ASCII."""
    return text.translate(_TO_ASCII)


def bare(text: str) -> str:
    """A normal form without delimiters, and without what a sentence ends in."""
    return " ".join(text.replace("$", " ").split()).strip(" ,;:").removesuffix(".").rstrip(" ,;:")


def boxed(text: str) -> list[str]:
    """The contents of all `\\boxed{...}` and `\\fbox{...}`, outermost ones, in order; unclosed ones do not count."""
    found, at = [], 0
    while (start := _BOX.search(text, at)) is not None:
        end, depth = start.end(), 1
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if depth:  # it would swallow the rest of the text
            break
        found.append(text[start.end() : end - 1].strip())
        at = end
    return [content for content in found if content]


def unboxed(text: str) -> str:
    """The inside of a text that is nothing but one box; "" for any other."""
    start, boxes = _BOX.search(text), boxed(text)
    if start is None or len(boxes) != 1:
        return ""
    end = text.index(boxes[0], start.end()) + len(boxes[0])
    return boxes[0] if _AROUND_BOX.fullmatch((text[: start.end()] + text[end:].lstrip()).strip()) else ""
