"""Learning rates at the points where they can be told by hand."""

import pytest

from megatron_eureka.config.schema import Optimizer
from megatron_eureka.train.schedule import learning_rate


def rates(schedule: str, updates: list[int]) -> list[float]:
    options = Optimizer(lr=1.0, schedule=schedule, warmup_fraction=0.2, min_lr_ratio=0.1)
    return [learning_rate(update, 10, options) for update in updates]


def test_warm_up_is_linear_and_starts_above_zero():
    assert rates("cosine", [0, 1, 2]) == [0.5, 1.0, 1.0]


def test_constant_stays_at_the_peak():
    assert rates("constant", [2, 9, 50]) == [1.0, 1.0, 1.0]


def test_linear_and_cosine_meet_half_way_and_end_at_the_floor():
    assert rates("linear", [6, 10, 20]) == pytest.approx([0.55, 0.1, 0.1])
    assert rates("cosine", [6, 10, 20]) == pytest.approx([0.55, 0.1, 0.1])
    assert rates("cosine", [4])[0] > rates("linear", [4])[0]
