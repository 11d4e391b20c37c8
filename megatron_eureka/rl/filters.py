"""The online filter: which groups are worth training on."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def verdict(accuracies: Sequence[float], lower: float, upper: float) -> str:
    """Judge a group by its mean accuracy alone, bounds inclusive.

    The comparison is exact: one right answer of ten passes a bound of 0.1, which a float32 mean may miss.

    Args:
        accuracies: [G] accuracy rewards, 0 or 1 each.

    Returns:
        "kept", "easy" (above `upper`) or "hard" (below `lower`).
    """
    mean = Fraction(sum(accuracy > 0.5 for accuracy in accuracies), len(accuracies))
    if mean < Fraction(str(lower)):
        return "hard"
    return "easy" if mean > Fraction(str(upper)) else "kept"
