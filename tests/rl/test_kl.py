"""KL estimators: golden vectors, and the divergence itself as their expectation."""

import pytest
import torch

from megatron_eureka.rl.kl import KL_ESTIMATORS


@pytest.mark.parametrize(("name", "expected"), [("k1", 0.1), ("k2", 0.005), ("k3", 0.00483742)])
def test_golden(name, expected):
    got = KL_ESTIMATORS[name](torch.tensor([0.1], dtype=torch.float64)).item()
    assert got == pytest.approx(expected, abs=5e-9)  # half a unit of the last printed digit


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_the_expectation_over_the_policys_tokens_is_the_divergence(name):
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 11, generator=generator, dtype=torch.float64).log_softmax(-1)
    divergence = (policy.exp() * (policy - reference)).sum()
    estimate = (policy.exp() * KL_ESTIMATORS[name](policy - reference)).sum()
    assert estimate.item() == pytest.approx(divergence.item(), rel=1e-12)


def test_as_a_loss_k2_has_the_gradient_of_the_divergence_and_k1_none():
    generator = torch.Generator().manual_seed(1)
    logits, other = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    reference = other.log_softmax(-1)

    def gradient(term):
        policy = logits.log_softmax(-1)
        return torch.autograd.grad(term(policy), logits)[0]

    expected = gradient(lambda policy: (policy.exp() * (policy - reference)).sum())

    def drawn(name):
        return lambda policy: (policy.exp().detach() * KL_ESTIMATORS[name](policy - reference)).sum()

    torch.testing.assert_close(gradient(drawn("k2")), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient(drawn("k1")), torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-12)


def test_far_apart_it_stays_finite():
    far = torch.tensor([200.0, -200.0], requires_grad=True)
    value = KL_ESTIMATORS["k3"](far)
    value.sum().backward()
    assert value.isfinite().all() and far.grad.isfinite().all()
