"""95 % intervals of rates and of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Wilson's score interval of a rate; holds for rates near 0 and 1, where the normal one does not.

    Raises:
        ValueError: there is nothing to count.
    """
    if total <= 0 or not 0 <= successes <= total:
        raise ValueError(f"{successes} of {total} is no rate.")
    rate, scale = successes / total, 1 + Z95**2 / total
    middle = (rate + Z95**2 / (2 * total)) / scale
    half = Z95 / scale * math.sqrt(rate * (1 - rate) / total + Z95**2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Mean of after - before on the same items and its 95 % interval (normal, standard error over items).

    Raises:
        ValueError: the lists differ in length or have fewer than two items.
    """
    if len(before) != len(after) or len(before) < 2:
        raise ValueError(f"Pairs are needed: {len(before)} items before, {len(after)} after.")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    half = Z95 * math.sqrt(variance / len(differences))
    return mean, mean - half, mean + half
