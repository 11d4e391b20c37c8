"""Golden vectors, computed from the definition by hand."""

import pytest
import torch

from megatron_eureka.rl.advantages import dr_grpo, grpo

# Six printed digits of the golden vectors: half a unit of the last one.
PRINTED = 5e-6


def test_grpo_of_mixed_rewards():
    got = grpo(torch.tensor([1.5, 0.5, 0.5, 0, 0, 0, 0, 0]))
    assert got.tolist() == pytest.approx([2.23917, 0.353553, 0.353553] + [-0.589256] * 5, abs=PRINTED)


def test_grpo_of_one_failure():
    got = grpo(torch.tensor([0.5] * 7 + [0.0]))
    assert got.tolist() == pytest.approx([0.353553] * 7 + [-2.474874], abs=PRINTED)


@pytest.mark.parametrize("estimator", [grpo, dr_grpo])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.5])
@pytest.mark.parametrize("group_size", [1, 3, 7, 8])
def test_equal_rewards_give_exactly_zero(estimator, reward, group_size):
    assert estimator(torch.full((group_size,), reward)).tolist() == [0.0] * group_size


def test_dr_grpo_only_centres():
    assert dr_grpo(torch.tensor([1.5, 0.5, 1.0, 1.0])).tolist() == [0.5, -0.5, 0.0, 0.0]
