"""Batch weights by hand; the filter's bounds by counts."""

import pytest

from megatron_eureka.rl.filters import verdict
from megatron_eureka.rl.reductions import sample_weights


def test_sample_mean_weighs_samples_alike():
    assert sample_weights("sample_mean", [1, 4, 0]) == [0.5, 0.125, 0.0]


def test_token_mean_weighs_tokens_alike():
    assert sample_weights("token_mean", [1, 4, 0]) == [0.2, 0.2, 0.0]


def test_dr_grpo_divides_by_a_constant_length():
    """Three samples of at most 8 tokens, one of them masked: 24 places."""
    assert sample_weights("dr_grpo", [1, 4, 0], 8) == [1 / 24, 1 / 24, 0.0]


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="sample_mean"):
        sample_weights("mean", [1])


@pytest.mark.parametrize(
    ("right", "size", "expected"),
    [
        (1, 10, "kept"),
        (9, 10, "kept"),
        (0, 10, "hard"),
        (10, 10, "easy"),
        (1, 8, "kept"),
        (0, 8, "hard"),
        (8, 8, "easy"),
    ],
)
def test_bounds_are_inclusive_and_exact(right, size, expected):
    assert verdict([1.0] * right + [0.0] * (size - right), 0.1, 0.9) == expected
