"""Golden vectors, computed from the definition by hand."""

import numpy as np
import pytest
import torch

from megatron_eureka.config.algorithm import Algorithm
from megatron_eureka.rl.advantages import ESTIMATORS, WHITENED, adora, dr_grpo, grpo, reinforce_pp, rloo, whiten
from megatron_eureka.rl.step_advantages import step_advantages
from megatron_eureka.types import FinishReason, Group, Sample, VersionSpan

# Six printed digits of the golden vectors: half a unit of the last one.
PRINTED = 5e-6


def test_grpo_of_mixed_rewards():
    got = grpo(torch.tensor([1.5, 0.5, 0.5, 0, 0, 0, 0, 0]))
    assert got.tolist() == pytest.approx([2.23917, 0.353553, 0.353553] + [-0.589256] * 5, abs=PRINTED)


def test_grpo_of_one_failure():
    got = grpo(torch.tensor([0.5] * 7 + [0.0]))
    assert got.tolist() == pytest.approx([0.353553] * 7 + [-2.474874], abs=PRINTED)


@pytest.mark.parametrize("estimator", [grpo, dr_grpo, rloo])
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.5])
@pytest.mark.parametrize("group_size", [1, 3, 7, 8])
def test_equal_rewards_give_exactly_zero(estimator, reward, group_size):
    assert estimator(torch.full((group_size,), reward)).tolist() == [0.0] * group_size


def test_dr_grpo_only_centres():
    assert dr_grpo(torch.tensor([1.5, 0.5, 1.0, 1.0])).tolist() == [0.5, -0.5, 0.0, 0.0]


def test_rloo_compares_with_the_others():
    rewards = [1.5, 0.5, 1.0, 0.0]
    others = [(sum(rewards) - reward) / 3 for reward in rewards]
    expected = [reward - mean for reward, mean in zip(rewards, others, strict=True)]
    assert rloo(torch.tensor(rewards)).tolist() == pytest.approx(expected, rel=1e-6)  # float32


def test_reinforce_pp_is_the_reward():
    assert reinforce_pp(torch.tensor([1.5, 0.0])).tolist() == [1.5, 0.0]


def test_whitening_is_over_tokens():
    """numpy over the tokens one by one; the second sample has none that is trained on."""
    advantages, num_tokens = [2.0, 9.0, -1.0, 0.5], [3, 0, 1, 6]
    tokens = np.repeat(np.array(advantages), num_tokens)
    expected = (np.array(advantages) - tokens.mean()) / np.sqrt(tokens.var())
    got = whiten(torch.tensor(advantages), torch.tensor(num_tokens))
    assert got.tolist() == pytest.approx(expected.tolist(), rel=1e-6)  # float32


def test_whitening_of_equal_advantages_is_zero():
    assert whiten(torch.tensor([0.3, 0.3]), torch.tensor([5, 2])).tolist() == pytest.approx([0.0, 0.0], abs=1e-3)


def test_whitening_without_a_trained_token_gives_zeros():
    assert whiten(torch.tensor([1.0, -1.0]), torch.tensor([0, 0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("rewards", "lengths", "truncated", "expected"),
    [
        ([1.5, 0.5], [500, 300], [False, False], 1.0),
        ([1.5, 0.5], [200, 300], [False, False], 0.1),
        ([0.5, 0.0], [500, 300], [False, False], 1.0),  # none right
        ([1.5, 1.0], [500, 300], [False, False], 0.1),  # all right
        ([1.5, 0.0], [500, 300], [False, True], 0.1),  # wrong only by truncation
        ([1.5, 1.0, 0.0, 0.0], [100, 301, 200, 400], [False] * 4, 1.0),  # the longest right one against the wrong mean
        ([1.5, 1.0, 0.0, 0.0], [100, 300, 200, 400], [False] * 4, 0.1),  # as long is not longer
    ],
)
def test_adora(rewards, lengths, truncated, expected):
    assert adora(torch.tensor(rewards), torch.tensor(lengths), torch.tensor(truncated), 0.1) == expected


def groups(masked: bool = False) -> list[Group]:
    """Two groups of responses of 2, 1 and 4, 3 tokens; the last one was cut off, and may be masked."""

    def make(tokens, reward, reason=FinishReason.STOP):
        trained = (False,) * tokens if masked and reason == FinishReason.LENGTH else ()
        return Sample((1,) * tokens, (), reason, (VersionSpan(0, 0),), "", {"total": reward}, trained)

    return [
        Group(None, (make(2, 1.5), make(1, 0.0))),
        Group(None, (make(4, 0.0), make(3, 1.0, FinishReason.LENGTH))),
    ]


def options(**values) -> Algorithm:
    return Algorithm.model_validate(values)


def test_a_step_has_the_estimates_of_its_groups_in_order():
    found = step_advantages(groups(), options(advantage="dr_grpo"))
    assert found.values.tolist() == [0.75, -0.75, -0.5, 0.5]
    assert found.adora_weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", sorted(WHITENED))
@pytest.mark.parametrize("masked", [False, True])
def test_whitening_is_over_the_trained_tokens_of_the_step(name, masked):
    found = step_advantages(groups(masked), options(advantage=name))
    raw = np.concatenate([ESTIMATORS[name](torch.tensor(part)).numpy() for part in ([1.5, 0.0], [0.0, 1.0])])
    tokens = np.repeat(raw.astype(np.float64), [2, 1, 4, 0 if masked else 3])
    expected = (raw - tokens.mean()) / tokens.std()
    assert found.values.tolist() == pytest.approx(expected.tolist(), rel=1e-5)  # float32


def test_adora_weighs_groups_after_the_estimate():
    found = step_advantages(groups(), options(advantage="dr_grpo", adora={"enabled": True, "weight": 0.25}))
    # 2 tokens right and 1 wrong: as wanted. 3 right and 4 wrong: weighed down.
    assert found.adora_weights.tolist() == [1.0, 0.25]
    assert found.values.tolist() == [0.75, -0.75, -0.125, 0.125]


def test_penalties_come_off_the_rewards_first_but_adora_sees_none():
    penalties = torch.tensor([1.5, 0.0, 0.0, 0.6])  # the first would not be right any more
    adora_on = {"enabled": True, "weight": 0.25}
    found = step_advantages(groups(), options(advantage="dr_grpo", adora=adora_on), penalties)
    assert found.adora_weights.tolist() == [1.0, 0.25]
    assert found.values.tolist() == pytest.approx([0.0, 0.0, -0.05, 0.05], abs=1e-7)  # float32
