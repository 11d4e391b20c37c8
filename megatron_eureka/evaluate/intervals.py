"""pass@k, 95 % intervals of rates and of paired differences, and whether a difference may be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# scipy.stats takes a second to import: inside what needs it, so that a command without statistics does not wait.

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
DRAWS_AT_A_TIME = 1000  # of all items' signs; 8 MB for 1,000 items


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The unbiased estimate from n samples of which c are right: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.

    Raises:
        ValueError: k is not within 1 and the number of samples, or more are right than there are.
    """
    if not 1 <= k <= num_samples or not 0 <= num_correct <= num_samples:
        raise ValueError(f"pass@{k} of {num_samples} samples, {num_correct} right, cannot be: k is 1 to {num_samples}.")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Wilson's score interval of a rate; holds for rates near 0 and 1, where the normal one does not.

    Raises:
        ValueError: there is nothing to count.
    """
    from scipy.stats import binomtest

    if total <= 0 or not 0 <= successes <= total:
        raise ValueError(f"{successes} of {total} is no rate.")
    low, high = binomtest(successes, total).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Mean of after - before on the same items and its 95 % interval (normal, standard error over items).

    Raises:
        ValueError: the lists differ in length or have fewer than two items.
    """
    if len(before) != len(after) or len(before) < 2:
        raise ValueError(f"Pairs are needed: {len(before)} items before, {len(after)} after.")
    return _normal_mean(np.subtract(after, before))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean of values in [0, 1]: Wilson's where all are 0 or 1, else normal, cut at 0 and 1.

    Raises:
        ValueError: there are no values.
    """
    if all(value in (0.0, 1.0) for value in values):
        return wilson(round(sum(values)), len(values))
    if len(values) < 2:
        return 0.0, 1.0  # one value that is neither says nothing about the spread
    _, low, high = _normal_mean(values)
    return max(0.0, low), min(1.0, high)


def _normal_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and its normal interval, which scipy's own calls undefined where all values are equal."""
    from scipy.stats import sem

    mean, half = float(np.mean(values)), Z95 * float(sem(values))
    return mean, mean - half, mean + half


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

    Of the n items with different outcomes, those of either direction are binomial(n, 1/2).

    Raises:
        ValueError: the lists differ in length, or hold other values than 0 and 1.
    """
    from scipy.stats import binomtest

    if len(before) != len(after) or not {*before, *after} <= {0.0, 1.0}:
        raise ValueError("McNemar's test is for pairs of right and wrong, 1 and 0.")
    won = sum(one < two for one, two in zip(before, after, strict=True))
    lost = sum(one > two for one, two in zip(before, after, strict=True))
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def sign_flip(before: Sequence[float], after: Sequence[float], draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of a paired permutation test, for means of several samples an item.

    Under the hypothesis that the two are alike, each item's difference is as likely as its negative: all signs are
    counted where they are no more than `draws`, else so many are drawn, the ones found among them.

    Raises:
        ValueError: the lists differ in length.
    """
    from scipy.stats import permutation_test

    if len(before) != len(after):
        raise ValueError(f"Pairs are needed: {len(before)} items before, {len(after)} after.")
    differences = [two - one for one, two in zip(before, after, strict=True) if two != one]
    if len(differences) < 2:  # scipy wants two; one is as far from 0 as its negative
        return 1.0
    test = permutation_test(
        (differences,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=draws,
        batch=DRAWS_AT_A_TIME,
        rng=seed,
    )
    return float(test.pvalue)
