"""Rollout correction: the engine that sampled and the trainer compute the same log-probs with other kernels.

The difference is measured (`rollout_corr/*`) and, as far as importance weights can, corrected: the loss of a token is
weighted by trainer / engine, cut at a cap (truncated importance sampling, "Your Efficient RL Framework Secretly Brings
You Off-Policy RL Training", 2025), and what is too far off may be rejected (masked).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from megatron_eureka.config.algorithm import Correction
from megatron_eureka.rl.losses import MAX_LOG_RATIO, mean_by_sample

# What `correction_sums` gives beside metrics: divisors, and sums that `correction_metrics` makes quotients of.
PARTS = ("tokens", "samples", "ratio", "ratio_squared", "sequence_ratio_squared")


@dataclass(frozen=True)
class TokenCorrection:
    """What the loss of each token is multiplied by."""

    importance: torch.Tensor  # [tokens] float32, cut at the cap
    kept: torch.Tensor  # [tokens] bool, not rejected

    def of(self, tokens: torch.Tensor) -> TokenCorrection:
        """That of some of the tokens; [tokens] bool."""
        return TokenCorrection(self.importance[tokens], self.kept[tokens])

    @property
    def weights(self) -> torch.Tensor:
        """[tokens] float32, zero where rejected."""
        return self.importance * self.kept


def correct(
    trainer: torch.Tensor, engine: torch.Tensor, sample_index: torch.Tensor, options: Correction
) -> TokenCorrection:
    """Importance weights and rejections of whole samples' tokens.

    The denominators of the loss stay those of all tokens, rejected or not: they belong to the global batch and are
    known before any pass.

    Args:
        trainer: [tokens] float32, log-probs under the policy that the step starts from.
        engine: [tokens] float32, as the engine reported them when it sampled.
        sample_index: [tokens] int64, the tokens of a sample together.
    """
    log_ratio = trainer - engine
    ones = torch.ones_like(log_ratio)
    mean = mean_by_sample(log_ratio, sample_index)
    product = mean * _lengths(sample_index)
    ratio = {"token": _exp(log_ratio), "sequence": _exp(product), "geometric": _exp(mean), "none": ones}
    judged = ratio[options.reject]
    kept = (judged >= options.reject_low) & (judged <= options.reject_high) if options.reject != "none" else ones > 0
    return TokenCorrection(ratio[options.weights].clamp(max=options.cap) if options.weights != "none" else ones, kept)


def _lengths(sample_index: torch.Tensor) -> torch.Tensor:
    """[tokens] int64: the number of tokens of each token's sample."""
    _, place, counts = sample_index.unique_consecutive(return_inverse=True, return_counts=True)
    return counts[place]


def _exp(log_ratio: torch.Tensor) -> torch.Tensor:
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def correction_sums(
    trainer: torch.Tensor,
    engine: torch.Tensor,
    sample_index: torch.Tensor,
    correction: TokenCorrection,
    options: Correction,
) -> dict[str, torch.Tensor]:
    """Of a row's tokens and samples: the sums of PARTS, and those that means and maxima `rollout_corr/*` are made of.

    See `correct` for shapes, and docs/metrics.md for what each metric is.
    """
    log_ratio = trainer - engine
    ratio, probs_diff = _exp(log_ratio), (trainer.exp() - engine.exp()).abs()
    first = _first_of_sample(sample_index)  # one token a sample stands for it
    training_log_ppl, rollout_log_ppl = (-mean_by_sample(values, sample_index)[first] for values in (trainer, engine))
    sequence_ratio = _exp(mean_by_sample(log_ratio, sample_index) * _lengths(sample_index))[first]

    def top(values):
        return values.amax() if len(values) else values.sum()

    return {
        "tokens": log_ratio.new_tensor(float(len(log_ratio))),
        "samples": first.sum(),
        "rollout_corr/kl": -log_ratio.sum(),
        "rollout_corr/k3_kl": (torch.expm1(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)) - log_ratio).sum(),
        "ratio": ratio.sum(),
        "ratio_squared": ratio.square().sum(),
        "sequence_ratio_squared": sequence_ratio.square().sum(),
        "rollout_corr/probs_diff_mean": probs_diff.sum(),
        "rollout_corr/probs_diff_max": top(probs_diff),
        "rollout_corr/is_mean": correction.importance.sum(),
        "rollout_corr/is_max": top(correction.importance),
        "rollout_corr/is_truncated": (correction.importance >= options.cap).sum(),
        "rollout_corr/rejected_tokens": (~correction.kept).sum(),
        "rollout_corr/rejected_samples": first.sum() - _whole(correction.kept, sample_index)[first].sum(),
        "rollout_corr/training_log_ppl": training_log_ppl.sum(),
        "rollout_corr/rollout_log_ppl": rollout_log_ppl.sum(),
        "rollout_corr/log_ppl_abs_diff": (training_log_ppl - rollout_log_ppl).abs().sum(),
        "rollout_corr/logprob_diff_mean": log_ratio.abs().sum(),
    }


def _whole(kept: torch.Tensor, sample_index: torch.Tensor) -> torch.Tensor:
    """[tokens] bool: whether anything of the token's sample is kept."""
    return mean_by_sample(kept.float(), sample_index) > 0


def _first_of_sample(sample_index: torch.Tensor) -> torch.Tensor:
    """[tokens] bool: where a sample begins."""
    first = torch.ones_like(sample_index, dtype=torch.bool)
    first[1:] = sample_index[1:] != sample_index[:-1]
    return first


def correction_metrics(totals: Mapping[str, float]) -> dict[str, float]:
    """The quotients `rollout_corr/*` of sums over the tokens that are measured."""
    tokens, samples = max(totals["tokens"], 1.0), max(totals["samples"], 1.0)
    return {
        "rollout_corr/chi2_token": totals["ratio_squared"] / tokens - 1.0,
        "rollout_corr/chi2_seq": totals["sequence_ratio_squared"] / samples - 1.0,
        "rollout_corr/ess": totals["ratio"] ** 2 / max(totals["ratio_squared"], 1e-30) / tokens,
    }
