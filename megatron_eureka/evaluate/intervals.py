"""95 % intervals of rates and of paired differences, and whether a difference may be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

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


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean of values in [0, 1]: Wilson's where all are 0 or 1, else normal, cut at 0 and 1.

    Raises:
        ValueError: there are no values.
    """
    if all(value in (0.0, 1.0) for value in values):
        return wilson(round(sum(values)), len(values))
    if len(values) < 2:
        return 0.0, 1.0  # one value that is neither says nothing about the spread
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = Z95 * math.sqrt(variance / len(values))
    return max(0.0, mean - half), min(1.0, mean + half)


def paired_rates(won: int, lost: int, total: int) -> tuple[float, float, float]:
    """Difference of two rates on the same items, (won - lost) / total, and its 95 % interval.

    The interval is Agresti and Min's (Statistics in Medicine 24, 2005): normal, after half an item is added to each of
    the four outcomes. Unlike the plain normal one it has a width when no item differs.

    Raises:
        ValueError: more items were won and lost than there are, or there are none.
    """
    if total <= 0 or min(won, lost) < 0 or won + lost > total:
        raise ValueError(f"{won} won and {lost} lost of {total} items cannot be.")
    size = total + 2
    middle = (won - lost) / size
    half = Z95 * math.sqrt(((won + lost + 1) / size - middle**2) / size)
    return (won - lost) / total, max(-1.0, middle - half), min(1.0, middle + half)


def mcnemar(before: Sequence[float], after: Sequence[float]) -> float:
    """Two-sided p-value of McNemar's exact test: are items more often lost than won, or the other way round?

    Of the n items with different outcomes, the smaller count k of either direction is binomial(n, 1/2).

    Raises:
        ValueError: the lists differ in length, or hold other values than 0 and 1.
    """
    if len(before) != len(after) or not {*before, *after} <= {0.0, 1.0}:
        raise ValueError("McNemar's test is for pairs of right and wrong, 1 and 0.")
    won = sum(one < two for one, two in zip(before, after, strict=True))
    lost = sum(one > two for one, two in zip(before, after, strict=True))
    total, small = won + lost, min(won, lost)
    tail = sum(math.comb(total, k) for k in range(small + 1))
    return min(1.0, 2 * tail / (1 << total))  # integers: exact, however many items there are


def sign_flip(before: Sequence[float], after: Sequence[float], draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a paired permutation test, for means of several samples an item.

    Under the hypothesis that the two are alike, each item's difference is as likely as its negative; the share of
    random signs whose sum is as far from 0 as the one found, the one found among them.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"Pairs are needed: {len(before)} items before, {len(after)} after.")
    differences = [two - one for one, two in zip(before, after, strict=True) if two != one]
    found = abs(sum(differences)) - 1e-9  # sums of equal terms in another order differ in their last bits
    random = Random(seed)
    as_far = sum(abs(sum(d if random.random() < 0.5 else -d for d in differences)) >= found for _ in range(draws))
    return (as_far + 1) / (draws + 1)
