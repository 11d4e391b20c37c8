"""Policy losses of single tokens and what is logged beside them. How they are summed is in `reductions.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

# exp of a larger difference overflows in float32 and makes NaN gradients; the ratio is clipped long before.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class TokenLoss:
    """Losses [tokens] float32, and per token whether each clip was active (for the clip fractions)."""

    loss: torch.Tensor
    clipped: torch.Tensor  # [tokens] bool, the upper or lower range decided
    clipped_lower: torch.Tensor  # [tokens] bool, the dual clip decided


def ppo_clip(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> TokenLoss:
    """Clipped surrogate, with the dual clip for negative advantages (PPO; arXiv 1912.09729).

    -min(rho A, clip(rho, 1 - low, 1 + high) A); where A < 0 it is at most -dual_clip * A.

    Args:
        logprobs: [tokens] float32 under the policy, with gradient.
        old_logprobs: [tokens] float32 under the policy that the update started from.
        advantages: [tokens] float32.
    """
    ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    plain = -ratio * advantages
    ranged = -ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    pessimistic = torch.maximum(plain, ranged)
    cap = -dual_clip * advantages
    negative = advantages < 0
    return TokenLoss(
        loss=torch.where(negative, torch.minimum(pessimistic, cap), pessimistic),
        clipped=ranged > plain,
        clipped_lower=negative & (cap < pessimistic),
    )


LOSSES: dict[str, Callable[..., TokenLoss]] = {"ppo_clip": ppo_clip}
