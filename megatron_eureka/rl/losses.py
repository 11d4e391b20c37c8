"""Policy losses of single tokens and what is logged beside them. How they are summed is in `reductions.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from megatron_eureka.config.algorithm import Algorithm

# exp of a larger difference overflows in float32 and makes NaN gradients; the ratio is clipped long before.
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True)
class Tokens:
    """Response tokens of whole samples, one sample after the other."""

    logprobs: torch.Tensor  # [tokens] float32 under the policy, with gradient
    old_logprobs: torch.Tensor  # [tokens] float32 under the policy that the step started from
    advantages: torch.Tensor  # [tokens] float32
    sample_index: torch.Tensor  # [tokens] int64, the same number for all tokens of a sample


@dataclass(frozen=True)
class TokenLoss:
    """Losses [tokens] float32, and per token whether each clip was active (for the clip fractions)."""

    loss: torch.Tensor
    clipped: torch.Tensor  # [tokens] bool, the upper or lower range decided
    clipped_lower: torch.Tensor  # [tokens] bool, the dual clip decided


def ppo_clip(tokens: Tokens, options: Algorithm) -> TokenLoss:
    """Clipped surrogate, with the dual clip for negative advantages (PPO, arXiv 1707.06347; dual clip 1912.09729).

    -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A); where A < 0 it is at most -dual_clip * A. A higher upper
    than lower range is DAPO's clip-higher (arXiv 2503.14476, section 3.1).
    """
    advantages, ratio = tokens.advantages, _exp(tokens.logprobs - tokens.old_logprobs)
    plain = -ratio * advantages
    ranged = -ratio.clamp(1.0 - options.clip_low, 1.0 + options.clip_high) * advantages
    pessimistic = torch.maximum(plain, ranged)
    cap = -options.dual_clip * advantages
    negative = advantages < 0
    return TokenLoss(
        loss=torch.where(negative, torch.minimum(pessimistic, cap), pessimistic),
        clipped=ranged > plain,
        clipped_lower=negative & (cap < pessimistic),
    )


def gspo(tokens: Tokens, options: Algorithm) -> TokenLoss:
    """Clipped surrogate of whole sequences, ratio exp(mean of the log-ratios) (GSPO, arXiv 2507.18071, eq. 5 and 7).

    Every token of a sample gets its sample's loss, so the reduction `sample_mean` gives the paper's objective.
    """
    log_ratio = mean_by_sample(tokens.logprobs - tokens.old_logprobs, tokens.sample_index)
    advantages, ratio = tokens.advantages, _exp(log_ratio)
    plain = -ratio * advantages
    ranged = -ratio.clamp(1.0 - options.gspo.clip_low, 1.0 + options.gspo.clip_high) * advantages
    return TokenLoss(torch.maximum(plain, ranged), ranged > plain, torch.zeros_like(plain, dtype=torch.bool))


def cispo(tokens: Tokens, options: Algorithm) -> TokenLoss:
    """REINFORCE with importance weights cut at a maximum and held fixed (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5).

    -min(rho, max_ratio) A logp, gradient through logp alone: a token over the maximum still teaches, with a bounded
    weight. The weights have no lower bound, as in the paper's experiments.
    """
    ratio = _exp(tokens.logprobs - tokens.old_logprobs).detach()
    weight = ratio.clamp(max=options.cispo.max_ratio)
    never = torch.zeros_like(ratio, dtype=torch.bool)
    return TokenLoss(-weight * tokens.advantages * tokens.logprobs, ratio > options.cispo.max_ratio, never)


def mean_by_sample(values: torch.Tensor, sample_index: torch.Tensor) -> torch.Tensor:
    """The mean of each token's sample, at every token; [tokens] -> [tokens]. A sample's tokens stand together."""
    _, place, counts = sample_index.unique_consecutive(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(counts)).index_add(0, place, values)
    return (sums / counts)[place]


def _exp(log_ratio: torch.Tensor) -> torch.Tensor:
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


LOSSES: dict[str, Callable[[Tokens, Algorithm], TokenLoss]] = {"ppo_clip": ppo_clip, "gspo": gspo, "cispo": cispo}
OF_TOKENS = frozenset({"ppo_clip", "cispo"})  # a token's loss asks for nothing of its sample's other tokens
