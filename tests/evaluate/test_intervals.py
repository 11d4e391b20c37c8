"""Intervals against published values and values worked out by hand."""

import pytest

from megatron_eureka.evaluate.intervals import paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3, as printed
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # z^2 = 3.841459: (8 + z^2 / 2) / (10 + z^2) -+ z / (10 + z^2) * sqrt(8 * 2 / 10 + z^2 / 4)
        (8, 10, 0.4902, 0.9433),
        (5, 10, 0.2366, 0.7634),
    ],
)
def test_wilson(successes, total, low, high):
    assert wilson(successes, total) == pytest.approx((low, high), abs=5e-5)  # four printed digits


@pytest.mark.parametrize("total", [1, 10, 1000])
def test_wilson_at_the_edges(total):
    reach = 3.841459 / (total + 3.841459)  # all that is left of the formula: z^2 / (n + z^2)
    assert wilson(0, total) == pytest.approx((0.0, reach), abs=1e-6)  # z^2 above has seven digits
    assert wilson(total, total) == pytest.approx((1.0 - reach, 1.0), abs=1e-6)
    assert wilson(0, total)[0] >= 0.0 and wilson(total, total)[1] <= 1.0


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_what_is_no_rate(successes, total):
    with pytest.raises(ValueError, match=f"{successes} of {total}"):
        wilson(successes, total)


def test_paired_difference_by_hand():
    # Differences 1, 0, 1, -1: mean 1/4, squares of deviations 9/16 + 1/16 + 9/16 + 25/16 = 11/4, variance 11/12,
    # standard error sqrt(11/48) = 0.478714, times 1.959964 = 0.938261.
    result = paired_difference([0, 1, 0, 1], [1, 1, 1, 0])
    assert result == pytest.approx((0.25, -0.688261, 1.188261), abs=2e-6)  # six digits above


def test_equal_differences_have_no_width():
    assert paired_difference([0.0, 0.5], [0.25, 0.75]) == (0.25, 0.25, 0.25)
    assert paired_difference([1, 1, 0], [1, 1, 0]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("before", "after"), [([1], [0]), ([], []), ([1, 0], [1, 0, 1])])
def test_paired_difference_refuses_what_is_no_pairs(before, after):
    with pytest.raises(ValueError, match=f"{len(before)} items before, {len(after)} after"):
        paired_difference(before, after)
