"""Formulas, compared by math-verify and, where they are numbers or have variables, by their values first.

An answer without sentences (a formula, or several with commas, "and", "or" between them) is compared as a whole: all
of it must equal the gold. In an answer with sentences math-verify looks for the final result. Nothing here is bounded
in time; the processes of `rewards/pool.py` are. Texts are normal forms.
"""

from __future__ import annotations

import re
from functools import lru_cache

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Basic, Eq, Expr, FiniteSet, Float, Interval, Rational, Union
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import And, Or

from megatron_eureka.answers.words import FUNCTIONS, TEXT_ONLY, is_undecided, tail

MAX_FORMULA_CHARS = 1_000  # longer ones count as sentences
DIFFERENT = 1e-4  # relative: by more than any rounding; what is nearer is left to math-verify
MAX_VARIABLES = 6
# Words of a formula that are no sentence: math-verify takes "and" and "or" for commas, and drops units.
FORMULA_WORDS = FUNCTIONS | frozenset(
    ["and", "or", "mm", "cm", "dm", "km", "ft", "sq", "mg", "kg", "ml", "sec", "min", "hr", "mph", "kmh"]
    + ["deg", "degree", "degrees", "percent", "inf", "infty"]
)

_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_CJK_UNIT = re.compile(r"(?<=[\d)}\]$°%])\s*[\u3400-\u9fff]{1,4}$")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_EXPONENT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?!\w)")
# math-verify drops units, but not these with an exponent. A last m^2 may be a variable.
_SQUARE_UNIT = re.compile(r"(?<=[\d\s}])(mm|cm|dm|km)\s?\^\s?\{?[23]\}?$")
_INNER_SPACE = re.compile(r"(?<=[(\[])\s+|\s+(?=[)\]])")
_MEMBER = re.compile(r"^\s*[A-Za-z]\s*\\in(?![A-Za-z])\s*")
_INEQUALITY = re.compile(r"[<>]|\\[lg]eq?\b")
_HEDGED_FORMULA = re.compile(r"[(\[]\s*or\b", re.IGNORECASE)
_SEPARATOR = re.compile(r"\s*(?:,|;|\band\b)\s*")
_ASSIGNMENT = re.compile(r"([A-Za-z](?:_\{?\w+\}?)?)\s*=\s*([^=,]+)")


def same_formula(answer: str, gold: str, tolerance: float = 0.0) -> bool:
    """Whether an answer, or the result of its sentences, equals the gold.

    Args:
        tolerance: absolute, for values; 0: as good as exact.
    """
    if TEXT_ONLY.search(gold) or TEXT_ONLY.search(answer):
        return False
    has_box = r"\boxed" in answer
    formula = as_formula(answer)
    if formula is None and not has_box:
        formula = as_formula(tail(answer))
    if formula:
        if _HEDGED_FORMULA.search(formula):
            return False
        found = _parsed(formula)
        if any(isinstance(item, Basic) for item in found):
            return _equal(parse_gold(gold), found, tolerance) or _same_assignments(formula, gold)
        if _INEQUALITY.search(formula) and not _INEQUALITY.search(gold):
            return False  # math-verify would find the number in it
    elif not has_box and is_undecided(answer):
        return False
    text = _CJK.sub(r" \g<0> ", answer)  # it takes a number only behind a blank
    found = parse(text, [LatexExtractionConfig(), ExprExtractionConfig()], parsing_timeout=None)
    return _equal(parse_gold(gold), found, tolerance)


def as_formula(text: str) -> str | None:
    """A text as one formula without its delimiters; None for one with sentences in it."""
    if len(text) > MAX_FORMULA_CHARS or _CJK.search(text):
        return None
    text = _SQUARE_UNIT.sub(r"\1", _EXPONENT.sub(r"\1\\times10^{\2}", text.replace("$", " ").strip()))
    words = _WORD.findall(_COMMAND.sub(" ", text))
    if any(word.lower() not in FORMULA_WORDS and not word.isupper() for word in words):
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = (text if r"\begin" in text else ", ".join(lines)).strip().rstrip(" .,;:?")
    if text.count(">") > 1 and "<" not in text:  # c > b > a
        text = " < ".join(reversed(text.split(">")))
    text = _INNER_SPACE.sub("", text)  # math-verify ends a formula there
    return _MEMBER.sub("", text.removeprefix(r"\approx").removeprefix("=")).strip()


@lru_cache(maxsize=4096)
def parse_gold(gold: str) -> list:
    """What math-verify makes of a gold: sympy objects, and texts where it fails."""
    gold = _CJK_UNIT.sub("", gold)
    formula = as_formula(gold)
    if formula is not None:
        return _parsed(formula)
    text = " ".join(gold.split())
    return parse(text if "$" in text else f"${text}$", parsing_timeout=None)


def _parsed(formula: str) -> list:
    return parse(f"${formula}$", [LatexExtractionConfig()], parsing_timeout=None)


def _equal(gold: list, found: list, tolerance: float) -> bool:
    if not gold or not found:
        return False
    if tolerance and _within(gold[0], found[0], tolerance):
        return True
    by_value = _same_values(gold[0], found[0])
    if by_value is not None:
        return by_value
    if any(isinstance(item, And) for item in gold) and any(isinstance(item, FiniteSet) for item in found):
        return False  # 1 < x < 3 is not 1, 3, which math-verify takes for the pair (1, 3)
    if verify(gold, found, timeout_seconds=None):
        return True
    # math-verify takes an interval for an inequality only where the inequality is the gold.
    turned = any(isinstance(item, Interval | Union) for item in gold)
    turned = turned and any(isinstance(item, Relational | And | Or) for item in found)
    return turned and verify(found, gold, timeout_seconds=None)


def _within(gold: object, found: object, tolerance: float) -> bool:
    if isinstance(gold, Eq) and isinstance(found, Eq) and gold.lhs != found.lhs:
        return False
    values = [item.rhs if isinstance(item, Eq) and item.lhs.is_Symbol else item for item in (gold, found)]
    if not all(isinstance(value, Expr) and value.is_number for value in values):
        return False
    difference = (values[1] - values[0]).evalf(15)
    return bool(difference.is_real and abs(difference) <= tolerance * 1.01)


def _same_values(gold: object, found: object) -> bool | None:
    """Equal or not by values at a few points; None where math-verify has to say, such as for decimals close by.

    Equations are equal when one is a multiple of the other, as OlympiadBench's own judge has it.
    """
    if isinstance(gold, Eq) and isinstance(found, Eq):
        if gold.lhs == found.lhs:
            return _same_values(gold.rhs, found.rhs)
        return _proportional(gold.lhs - gold.rhs, found.lhs - found.rhs)
    if not (isinstance(gold, Expr) and isinstance(found, Expr)):
        return None
    pairs = _values(gold, found)
    if not pairs:
        return None
    apart = [abs(one - two) / max(abs(one), abs(two)) if one != two else 0.0 for one, two in pairs]
    if max(apart) > DIFFERENT:
        return False
    exact = not gold.has(Float) and not found.has(Float)
    return True if exact and gold.free_symbols and max(apart) < 1e-12 else None


def _proportional(gold: Expr, found: Expr) -> bool | None:
    pairs = _values(gold, found)
    if not pairs or any(not one or not two for one, two in pairs):
        return None
    ratios = [one / two for one, two in pairs]
    return all(abs(ratio / ratios[0] - 1) < 1e-9 for ratio in ratios)


def _values(gold: Expr, found: Expr) -> list[tuple[complex, complex]]:
    """Both at the same points; none where they have no values, or not the same variables."""
    symbols = sorted(gold.free_symbols | found.free_symbols, key=str)
    if len(symbols) > MAX_VARIABLES or gold.atoms(AppliedUndef) or found.atoms(AppliedUndef):
        return []
    pairs = []
    for point in range(4 if symbols else 1):
        at = {symbol: Rational(37 + 23 * point + 11 * place, 29 + 6 * place) for place, symbol in enumerate(symbols)}
        values = [_number(expression.subs(at)) for expression in (gold, found)]
        if None in values:
            return []
        pairs.append(tuple(values))
    return pairs


def _number(expression: Expr) -> complex | None:
    value = expression.evalf(20)
    if not value.is_number or not value.is_finite or not value.is_comparable:
        return None
    return value


def _same_assignments(formula: str, gold: str) -> bool:
    """Whether both give the same variables the same values, in any order; or a point (2,3) and x=2, y=3."""
    found, wanted = _assignments(formula), _assignments(gold)
    if not found or (wanted and found.keys() != wanted.keys()):
        return False
    point = f"({','.join(found[name] for name in sorted(found))})"
    gold = f"({','.join(wanted[name] for name in sorted(wanted))})" if wanted else gold
    return gold.lstrip("$ ").startswith("(") and _equal(parse_gold(gold), _parsed(point), 0.0)


def _assignments(text: str) -> dict[str, str]:
    """{variable: value} of a text such as `x=2, y=3`; empty for any other, and for a variable that comes twice."""
    parts = [_ASSIGNMENT.fullmatch(part) for part in _SEPARATOR.split(text.replace("$", " ").strip(" ."))]
    values = {part.group(1): part.group(2).strip() for part in parts if part}
    return values if len(values) == len(parts) > 1 else {}
