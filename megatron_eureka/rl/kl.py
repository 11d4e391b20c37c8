"""Estimators of a token's KL divergence from the reference policy (Schulman, Approximating KL Divergence, 2020).

d = logp - logp_ref of the token that was drawn. In expectation over the policy's own tokens, k1 and k3 are the
divergence; as terms of a loss, k2 is the one whose gradient is that of the divergence (k1's is zero in expectation).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from megatron_eureka.rl.losses import MAX_LOG_RATIO


def k1(difference: torch.Tensor) -> torch.Tensor:
    """d: unbiased, of either sign. [tokens] -> [tokens]."""
    return difference


def k2(difference: torch.Tensor) -> torch.Tensor:
    """d^2 / 2: never negative, biased. [tokens] -> [tokens]."""
    return difference.square() / 2


def k3(difference: torch.Tensor) -> torch.Tensor:
    """exp(-d) - 1 + d: unbiased and never negative; d is bounded, for its exponential would overflow."""
    difference = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(-difference) + difference


KL_ESTIMATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
