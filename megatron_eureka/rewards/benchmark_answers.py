"""Answers of benchmarks: equal as rewards compare them, or equal within the tolerance that the benchmark grants.

The functions run in the processes of `pool.py`, which bound their time and memory.
"""

from __future__ import annotations

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse
from sympy import Basic, Eq, Expr, simplify

from megatron_eureka.rewards.accuracy import score_accuracy


def same_answer(candidate: str, gold: str, tolerance: float) -> bool:
    """Whether one answer equals another one.

    Equations are equal when one is a multiple of the other, as OlympiadBench's own judge has it.

    Args:
        candidate, gold: text or LaTeX, with or without dollar signs.
        tolerance: absolute, for answers that are numbers.
    """
    forms = [_as_math(text) for text in (candidate, gold)]
    if any(score_accuracy(text, gold) for text in dict.fromkeys((candidate, forms[0]))):
        return True
    ours, theirs = (_parsed(text) for text in forms)
    if isinstance(ours, Eq) and isinstance(theirs, Eq):
        return _proportional(ours, theirs)
    return _close(_right_side(ours), _right_side(theirs), tolerance)


def _as_math(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"


def _parsed(text: str) -> Basic | None:
    found = parse(text, [LatexExtractionConfig(), ExprExtractionConfig()], parsing_timeout=None)
    return found[0] if found and isinstance(found[0], Basic) else None


def _right_side(found: Basic | None) -> Basic | None:
    """What an equation such as x = 3 says about its letter."""
    return found.rhs if isinstance(found, Eq) and found.lhs.is_Symbol else found


def _close(ours: Basic | None, theirs: Basic | None, tolerance: float) -> bool:
    if not (isinstance(ours, Expr) and isinstance(theirs, Expr) and ours.is_number and theirs.is_number):
        return False
    difference = (ours - theirs).evalf()
    return bool(difference.is_real and abs(difference) <= tolerance * 1.01)


def _proportional(ours: Eq, theirs: Eq) -> bool:
    one, two = (equation.lhs - equation.rhs for equation in (ours, theirs))
    ratio = simplify(one / two)
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)
