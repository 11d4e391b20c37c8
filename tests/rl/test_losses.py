"""The clipped loss against its definition, token by token."""

import math

import pytest
import torch

from megatron_eureka.rl.losses import ppo_clip


def loss_of(log_ratio: float, advantage: float):
    logprob = torch.tensor([log_ratio], requires_grad=True)
    result = ppo_clip(logprob, torch.zeros(1), torch.tensor([advantage]), clip_low=0.2, clip_high=0.28, dual_clip=3.0)
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


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("log_ratio", [200.0, -200.0])
def test_extreme_ratios_have_finite_loss_and_gradient(log_ratio, advantage):
    result, gradient = loss_of(log_ratio, advantage)
    assert math.isfinite(result.loss.item()) and math.isfinite(gradient)


def test_gradient_equals_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logprobs = torch.randn(64, generator=generator, dtype=torch.float64).mul_(0.3).requires_grad_()
    old, advantages = torch.zeros(64, dtype=torch.float64), torch.randn(64, generator=generator, dtype=torch.float64)
    function = lambda x: ppo_clip(x, old, advantages, 0.2, 0.28, 3.0).loss
    assert torch.autograd.gradcheck(function, (logprobs,), eps=1e-7, atol=1e-6)  # float64 central differences
