"""Advantages of a group's samples. One estimator, one function; rewards in, advantages out."""

from __future__ import annotations

from collections.abc import Callable

import torch


def grpo(rewards: torch.Tensor) -> torch.Tensor:
    """(r - mean) / (std + 1e-9) over the group, std with n - 1 (DeepSeekMath, section 4.1).

    Args:
        rewards: [G] total rewards of one prompt's samples.

    Returns:
        [G] float32; zeros when all rewards are equal or there is one sample.
    """
    centered = dr_grpo(rewards)
    if len(rewards) < 2:
        return centered
    return centered / (rewards.float().std() + 1e-9)


def dr_grpo(rewards: torch.Tensor) -> torch.Tensor:
    """r - mean over the group, not scaled (Understanding R1-Zero-Like Training, section 3.2). [G] -> [G] float32.

    Equal rewards give exactly zero: their float mean may differ from them in the last bit, and dividing that
    difference by the small constant of `grpo` would make a gradient out of it.
    """
    rewards = rewards.float()
    if bool((rewards == rewards[0]).all()):
        return torch.zeros_like(rewards)
    return rewards - rewards.mean()


def rloo(rewards: torch.Tensor) -> torch.Tensor:
    """r - mean of the other G - 1 rewards (Back to Basics, arXiv 2402.14740). [G] -> [G] float32.

    The same as G / (G - 1) times the distance from the group's mean; zero for a single sample.
    """
    size = len(rewards)
    return dr_grpo(rewards) * (size / (size - 1)) if size > 1 else dr_grpo(rewards)


def reinforce_pp(rewards: torch.Tensor) -> torch.Tensor:
    """r itself, for whitening to compare it with the whole step (REINFORCE++, arXiv 2501.03262). [G] -> [G] float32."""
    return rewards.float()


ESTIMATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": dr_grpo,
}
# Those that `whiten` follows.
WHITENED = frozenset(["rloo", "reinforce_pp", "reinforce_pp_baseline"])


def whiten(advantages: torch.Tensor, num_tokens: torch.Tensor) -> torch.Tensor:
    """(A - mean) * rsqrt(max(var, 1e-8)), mean and variance over all response tokens of a step (REINFORCE++).

    Every rank knows all samples of the step, so nothing is exchanged. The variance is that of the tokens themselves
    (divided by their number).

    Args:
        advantages: [samples] float32, each of all tokens of its sample.
        num_tokens: [samples] trained tokens.

    Returns:
        [samples] float32; zeros where no token is trained.
    """
    if not num_tokens.any():
        return torch.zeros_like(advantages)
    weights = num_tokens.double() / num_tokens.sum()
    centered = advantages.double() - (weights * advantages.double()).sum()
    variance = (weights * centered.square()).sum()
    return (centered * variance.clamp(min=1e-8).rsqrt()).float()


def adora(rewards: torch.Tensor, num_tokens: torch.Tensor, truncated: torch.Tensor, weight: float) -> float:
    """ADORA's factor on a group's advantages: `weight` where the longest right answer is not longer than wrong ones.

    A right answer (reward above 0.5) shall be longer than the mean of the wrong ones that were not cut off; where
    there is no right answer nothing is changed, and where there is no such wrong one the mean counts as infinite.

    Args:
        rewards: [G] total rewards.
        num_tokens: [G] lengths of the responses.
        truncated: [G] bool, cut off at the limit.
    """
    right, wrong = num_tokens[rewards > 0.5], num_tokens[(rewards <= 0.5) & ~truncated]
    if not len(right) or (len(wrong) and bool(right.max() > wrong.double().mean())):
        return 1.0
    return weight
