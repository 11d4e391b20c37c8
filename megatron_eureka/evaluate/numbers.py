"""Numbers of answers: as sentences put them, as formulas that have to be computed, rounded, and in lists."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext

from megatron_eureka.rewards.notation import plain, to_latex
from megatron_eureka.rewards.quantities import Quantity, only_quantity, parse_quantity, parse_unit

MAX_DIGITS = 30  # after the point
MAX_CLOSED_CHARS = 100
SIGNIFICANT = 12  # of a binary number's decimals; the rest is noise of conversions

_MINUS = re.compile(r"(?<![\d.]\s)\b(?:negative|minus)\s+(?=[\d.])", re.IGNORECASE)
_OUT_OF = re.compile(r"(?<=\d)(?:\s+[A-Za-z]+){0,2}\s+out\s+of\s+(?:the\s+|all\s+)?\d+", re.IGNORECASE)
_BLANKS_OF_THOUSANDS = re.compile(r"\d{1,3}(?: \d{3})+")
_FORMULA = re.compile(r"\\(?:sqrt|frac|pi)\b|[√π^]")
# Numbers, roots, fractions and pi: nothing that has to be solved, and no words.
_CLOSED = re.compile(r"(?:[\d\s.+\-*/^(){}\[\]]|\\(?:sqrt|frac|pi|cdot|times|div)(?![A-Za-z]))+")
_BEFORE_RESULT = re.compile(
    r"[^,;]*(?:=|≈|\\approx\b|\\simeq\b|\b(?:is|are|equals|about|approximately)\b)", re.IGNORECASE
)


def read_number(text: str, of_all: bool = False) -> Quantity | None:
    """The number of an answer, with its unit; None where there are several, none, or a formula.

    Args:
        of_all: `4 out of 8` is 4.
    """
    text = _MINUS.sub("-", plain(text))
    text = _OUT_OF.sub("", text) if of_all else text
    thousands = _BLANKS_OF_THOUSANDS.search(text)
    if thousands and not re.search(r"\d", text[: thousands.start()] + text[thousands.end() :]):
        text = text.replace(thousands.group(), thousands.group().replace(" ", ""))
    return parse_quantity(text) or (parse_quantity(_result(text)) if _FORMULA.search(text) else only_quantity(text))


def closed_form(text: str, unit: str = "") -> str:
    """The roots, fractions and pi that an answer consists of, or ends in, as LaTeX; "" for any other answer.

    Args:
        unit: that the question asks for; another one cannot be told from a formula's variables.
    """
    text = _result(plain(text))
    head, _, tail = text.rpartition(" ")
    given = parse_unit(tail) if head else None
    text = head if given and given == (parse_unit(unit) or given) else text
    text = to_latex(text)
    closed = len(text) <= MAX_CLOSED_CHARS and _FORMULA.search(text) and _CLOSED.fullmatch(text)
    return text if closed and not re.search(r"\d\s+[\d.]", text) else ""


def same_rounded(value: float, gold: float, digits: int) -> bool:
    """Whether both round to the same at so many decimals; a last 5 may go up, or to the even neighbour."""
    return bool(_roundings(value, digits) & _roundings(gold, digits))


def rounded(value: float, digits: int) -> str:
    """A number with so many decimals."""
    return f"{max(_roundings(value, digits), key=abs):f}"


def list_values(text: str) -> list[float] | None:
    """The numbers of a list such as [1/2, 2]; None where an entry is none."""
    entries = [parse_quantity(entry) for entry in plain(text).strip("[](){} ").split(",")]
    return [entry.value for entry in entries] if all(entries) else None


def _result(text: str) -> str:
    """What stands behind the last equals sign or "is"."""
    before = _BEFORE_RESULT.match(text)
    return text[before.end() :].strip() if before else text


def _roundings(value: float, digits: int) -> set[Decimal]:
    with localcontext() as context:
        context.prec = 400  # the largest float has 309 digits
        place = Decimal(1).scaleb(-max(0, min(digits, MAX_DIGITS)))
        exact = Decimal(f"{value:.{SIGNIFICANT}g}")
        return {exact.quantize(place, mode) for mode in (ROUND_HALF_UP, ROUND_HALF_EVEN)}
