"""Numbers that are rounded, and formulas of roots, fractions and pi that have to be computed."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext

from megatron_eureka.answers.notation import bare
from megatron_eureka.answers.quantities import FORMULA, parse_unit, result_of

MAX_DIGITS = 30  # after the point
MAX_CLOSED_CHARS = 100
SIGNIFICANT = 12  # of a binary number's decimals; the rest is noise of conversions

_DECIMALS = re.compile(r"-?\d+\.(\d{2,})")
# Numbers, roots, fractions and pi: nothing that has to be solved, and no words.
_CLOSED = re.compile(r"(?:[\d\s.+\-*/^(){}\[\]]|\\(?:sqrt|frac|pi|cdot|times|div)(?![A-Za-z]))+")


def closed_form(text: str, unit: str = "") -> str:
    """The roots, fractions and pi that an answer consists of, or ends in; "" for any other answer.

    Args:
        unit: that the question asks for; another one cannot be told from a formula's variables.
    """
    text = result_of(bare(text))
    head, _, tail = text.rpartition(" ")
    given = parse_unit(tail) if head else None
    text = head if given and given == (parse_unit(unit) or given) else text
    closed = len(text) <= MAX_CLOSED_CHARS and FORMULA.search(text) and _CLOSED.fullmatch(text)
    return text if closed and not re.search(r"\d\s+[\d.]", text) else ""


def same_rounded(value: float, gold: float, digits: int) -> bool:
    """Whether both round to the same at so many decimals; a last 5 may go up, or to the even neighbour."""
    return bool(_roundings(value, digits) & _roundings(gold, digits))


def rounded(value: float, digits: int) -> str:
    """A number with so many decimals."""
    return f"{max(_roundings(value, digits), key=abs):f}"


def half_of_last_place(text: str) -> float:
    """Half a unit in the last of two or more decimals; 0 for a text that is no such number."""
    found = _DECIMALS.fullmatch(text)
    return 0.5 * 10.0 ** -len(found.group(1)) if found else 0.0


def _roundings(value: float, digits: int) -> set[Decimal]:
    with localcontext() as context:
        context.prec = 400  # the largest float has 309 digits
        place = Decimal(1).scaleb(-max(0, min(digits, MAX_DIGITS)))
        exact = Decimal(f"{value:.{SIGNIFICANT}g}")
        return {exact.quantize(place, mode) for mode in (ROUND_HALF_UP, ROUND_HALF_EVEN)}
