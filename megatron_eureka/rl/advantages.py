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
    centred = dr_grpo(rewards)
    if len(rewards) < 2:
        return centred
    return centred / (rewards.float().std() + 1e-9)


def dr_grpo(rewards: torch.Tensor) -> torch.Tensor:
    """r - mean over the group, not scaled (Understanding R1-Zero-Like Training, section 3.2). [G] -> [G] float32.

    Equal rewards give exactly zero: their float mean may differ from them in the last bit, and dividing that
    difference by the small constant of `grpo` would make a gradient out of it.
    """
    rewards = rewards.float()
    if bool((rewards == rewards[0]).all()):
        return torch.zeros_like(rewards)
    return rewards - rewards.mean()


ESTIMATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"grpo": grpo, "dr_grpo": dr_grpo}
