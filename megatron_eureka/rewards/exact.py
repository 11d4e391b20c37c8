"""Plain numbers, pairs and lists of them, compared exactly without a parser, which takes a thousand times as long."""

from __future__ import annotations

import re
from fractions import Fraction

# math-verify compares decimals rounded to 6 places; what lies between is left to it.
SURELY_DIFFERENT = Fraction(1, 100_000)

_DIGITS = r"\d{1,15}"
_ITEM = rf"[+-]?(?:{_DIGITS}(?:\.\d{{1,15}})?|{_DIGITS}/{_DIGITS}|\\[dt]?frac\{{{_DIGITS}\}}\{{{_DIGITS}\}})"
_NUMBER = re.compile(_ITEM)
_POINT = re.compile(rf"\(\s*{_ITEM}(?:\s*,\s*{_ITEM}){{1,9}}\s*\)")
_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")


def compare_numbers(first: str, second: str) -> bool | None:
    """Whether two numbers, or two points such as (1, -3/4), are equal; None where this is not for us to say."""
    left, right = _read(first), _read(second)
    if left is None or right is None or len(left) != len(right):
        return None
    largest = max(abs(a - b) for a, b in zip(left, right, strict=True))
    return True if not largest else False if largest > SURELY_DIFFERENT else None


def _read(text: str) -> list[Fraction] | None:
    text = text.strip(" $")
    if not (_NUMBER.fullmatch(text) or _POINT.fullmatch(text)):
        return None
    try:
        return [Fraction(_FRACTION.sub(r"\1\2/\3", item)) for item in text.strip("()").replace(" ", "").split(",")]
    except ZeroDivisionError:
        return None
