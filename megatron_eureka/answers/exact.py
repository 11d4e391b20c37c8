"""Plain numbers, points and intervals, compared exactly without a parser, which takes a thousand times as long."""

from __future__ import annotations

import re
from fractions import Fraction

# math-verify compares decimals rounded to 6 places; what lies between is left to it.
SURELY_DIFFERENT = Fraction(1, 100_000)

_DIGITS = r"\d{1,15}"
_ITEM = rf"[+-]?(?:{_DIGITS}(?:\.\d{{1,15}})?|{_DIGITS}/{_DIGITS}|\\frac\{{{_DIGITS}\}}\{{{_DIGITS}\}})"
_END = rf"(?:{_ITEM}|[+-]?\\infty)"
_NUMBER = re.compile(_ITEM)
_POINT = re.compile(rf"\(\s*{_ITEM}(?:\s*,\s*{_ITEM}){{1,9}}\s*\)")
_INTERVAL = re.compile(rf"[(\[]\s*{_END}\s*,\s*{_END}\s*[)\]]")
_FRACTION = re.compile(r"([+-]?)\\frac\{(\d+)\}\{(\d+)\}")
_INFINITY = {r"\infty": 1, r"+\infty": 1, r"-\infty": -1}


def compare_numbers(first: str, second: str) -> bool | None:
    """Whether two numbers, points such as (1, -3/4) or intervals are equal; None where this is not for us to say.

    Args:
        first, second: normal forms.
    """
    left, right = _read(first), _read(second)
    if left is None or right is None or left[0] != right[0] or len(left[1]) != len(right[1]):
        return None
    if any(a[0] != b[0] for a, b in zip(left[1], right[1], strict=True)):
        return False
    largest = max(abs(a[1] - b[1]) for a, b in zip(left[1], right[1], strict=True))
    return True if not largest else False if largest > SURELY_DIFFERENT else None


def _read(text: str) -> tuple[str, list[tuple[int, Fraction]]] | None:
    """Brackets, and each number as (0 or the sign of infinity, finite part)."""
    text = text.strip(" $")
    if not any(form.fullmatch(text) for form in (_NUMBER, _POINT, _INTERVAL)):
        return None
    brackets = text[0] + text[-1] if text[0] in "([" else ""
    items = text.strip("()[]").replace(" ", "").split(",")
    try:
        return brackets, [(_INFINITY.get(item, 0), _finite(item)) for item in items]
    except ZeroDivisionError:
        return None


def _finite(item: str) -> Fraction:
    return Fraction(0) if item in _INFINITY else Fraction(_FRACTION.sub(r"\1\2/\3", item))
