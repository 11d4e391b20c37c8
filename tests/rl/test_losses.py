"""Losses against their definitions, token by token and by finite differences."""

import math

import pytest
import torch

from megatron_eureka.config.algorithm import Algorithm
from megatron_eureka.rl.losses import LOSSES, Tokens, cispo, gspo, mean_by_sample, ppo_clip

OPTIONS = Algorithm.model_validate(
    {"clip_high": 0.28, "gspo": {"clip_low": 0.05, "clip_high": 0.1}, "cispo": {"max_ratio": 1.5}}
)


def loss_of(log_ratio: float, advantage: float, function=ppo_clip):
    logprob = torch.tensor([log_ratio], requires_grad=True)
    tokens = Tokens(logprob, torch.zeros(1), torch.tensor([advantage]), torch.tensor([0]))
    result = function(tokens, OPTIONS)
    result.loss.sum().backward()
    return result, logprob.grad.item()


def test_on_policy_the_loss_is_minus_the_advantage_and_so_is_the_gradient():
    result, gradient = loss_of(0.0, 1.7)
    assert result.loss.item() == pytest.approx(-1.7) and gradient == pytest.approx(-1.7)
    assert not result.clipped.item() and not result.clipped_lower.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "moves"),
    [
        (1.5, 1.0, -1.28, False),  # too likely already: clipped above, no gradient
        (1.2, 1.0, -1.20, True),  # inside the range
        (0.5, 1.0, -0.50, True),  # a good token that became unlikely keeps its gradient
        (0.5, -1.0, 0.80, False),  # a bad token unlikely enough: clipped below
        (1.5, -1.0, 1.50, True),  # a bad token that became likely keeps its gradient
        (5.0, -1.0, 3.00, False),  # the dual clip caps the loss
    ],
)
def test_clip_ranges(ratio, advantage, expected, moves):
    result, gradient = loss_of(math.log(ratio), advantage)
    assert result.loss.item() == pytest.approx(expected, rel=1e-6)  # float32 rounding of exp(log)
    assert (gradient != 0) is moves
    assert (result.clipped | result.clipped_lower).item() is (not moves)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("log_ratio", [200.0, -200.0])
def test_extreme_ratios_have_finite_loss_and_gradient(log_ratio, advantage, name):
    result, gradient = loss_of(log_ratio, advantage, LOSSES[name])
    assert math.isfinite(result.loss.item()) and math.isfinite(gradient)


# Two samples of two and three tokens.
INDEX = torch.tensor([4, 4, 7, 7, 7])


def test_a_samples_mean_stands_at_each_of_its_tokens():
    assert mean_by_sample(torch.tensor([1.0, 3.0, 0.0, 1.0, 5.0]), INDEX).tolist() == [2.0, 2.0, 2.0, 2.0, 2.0]
    assert mean_by_sample(torch.tensor([1.0, 2.0, 0.0, 0.0, 3.0]), INDEX).tolist() == [1.5, 1.5, 1.0, 1.0, 1.0]
    assert mean_by_sample(torch.empty(0), torch.empty(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize(
    ("log_ratios", "advantage", "expected", "clipped"),
    [
        ([0.3, -0.1], 2.0, -2.0 * 1.1, True),  # mean 0.1: exp is 1.105, over 1.1
        ([0.12, 0.04], 2.0, -2.0 * math.exp(0.08), False),  # a token far off is fine while the mean is not
        ([-0.3, 0.1], -1.0, 0.95, True),  # mean -0.1: exp is 0.905, under 0.95
        ([0.3, 0.1], -1.0, math.exp(0.2), False),  # bad and likelier: never clipped
    ],
)
def test_gspo_clips_whole_sequences(log_ratios, advantage, expected, clipped):
    tokens = Tokens(torch.tensor(log_ratios), torch.zeros(2), torch.full((2,), advantage), torch.tensor([0, 0]))
    result = gspo(tokens, OPTIONS)
    assert result.loss.tolist() == pytest.approx([expected] * 2, rel=1e-6)
    assert result.clipped.tolist() == [clipped] * 2 and not result.clipped_lower.any()


def test_cispo_cuts_the_weight_and_keeps_the_gradient():
    """Its loss is -min(ratio, 1.5) A logp, its gradient -min(ratio, 1.5) A: no token is without one."""
    for ratio, weight in ((0.2, 0.2), (1.2, 1.2), (4.0, 1.5)):
        result, gradient = loss_of(math.log(ratio), 2.0, cispo)
        assert gradient == pytest.approx(-2.0 * weight, rel=1e-6)
        assert result.loss.item() == pytest.approx(-2.0 * weight * math.log(ratio), rel=1e-6)
        assert result.clipped.item() is (ratio > 1.5)


@pytest.mark.parametrize("name", ["ppo_clip", "gspo"])
def test_gradient_equals_finite_differences(name):
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(64, generator=generator, dtype=torch.float64)

    logprobs, advantages = draw().mul_(0.3).requires_grad_(), draw()
    index = torch.arange(64) // 4

    def function(x):
        return LOSSES[name](Tokens(x, torch.zeros_like(x), advantages, index), OPTIONS).loss

    assert torch.autograd.gradcheck(function, (logprobs,), eps=1e-7, atol=1e-6)  # float64 central differences


def test_cispos_gradient_is_that_of_its_loss_with_the_weights_held_fixed():
    generator = torch.Generator().manual_seed(0)
    logprobs, advantages = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    weights = logprobs.exp().clamp(max=1.5)
    logprobs.requires_grad_()
    cispo(Tokens(logprobs, torch.zeros(64), advantages, torch.arange(64)), OPTIONS).loss.sum().backward()

    def shifted(eps):
        return -weights * advantages * (logprobs.detach() + eps)

    differences = (shifted(1e-6) - shifted(-1e-6)) / 2e-6
    torch.testing.assert_close(logprobs.grad, differences, rtol=0, atol=1e-8)  # float64 central differences
