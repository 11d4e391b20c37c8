"""One optimizer step of GRPO over the rows of an update."""

from __future__ import annotations

import torch

from megatron_eureka.rl.kl import KL_ESTIMATORS
from megatron_eureka.rl.losses import LOSSES, OF_TOKENS, TokenLoss, Tokens
from megatron_eureka.runs.metrics import reduced
from megatron_eureka.train.batch import UpdateBatch
from megatron_eureka.train.policy import WHOLE, Policy, accumulate, step
from megatron_eureka.train.sums import Sums, sum_over_job
from megatron_eureka.train.train_row import TrainRow

REPORTED = ("tokens", *reduced("actor"))


def update(policy: Policy, batch: UpdateBatch, number: float, num_updates: int) -> dict[str, float]:
    """One optimizer step on a batch; a collective over the whole layout.

    Args:
        batch: its rows have old log-probs and advantages, and where there is a KL term those of the reference.
        number: 0-based place of this update in the run of `num_updates`, see `learning_rate`.

    Returns:
        metrics named `actor/*`, the same on every rank.
    """
    algorithm = policy.config.algorithm
    has_reference = batch.rows[0].reference_logprobs is not None

    def row_loss(row: TrainRow, logprobs: torch.Tensor, entropies: torch.Tensor, part: slice = WHOLE):
        tokens = Tokens(logprobs, row.old_logprobs[part], row.advantages[part], row.sample_index[part])
        result = LOSSES[algorithm.loss](tokens, algorithm)
        weights = row.token_weights[part]
        policy_loss = row.correction[part] * result.loss
        total = policy_loss
        if algorithm.entropy_coef:  # without it no gradient of the entropy is made
            total = total - algorithm.entropy_coef * entropies
        kl = torch.zeros_like(logprobs)
        if has_reference:
            kl = KL_ESTIMATORS[algorithm.kl.estimator](logprobs - row.reference_logprobs[part])
        if has_reference and algorithm.kl.place == "loss":
            total = total + algorithm.kl.coef * kl
        loss = (weights * total).sum()
        if part != WHOLE:
            return loss, None
        losses = {"actor/loss": loss, "actor/pg_loss": (weights * policy_loss).sum()}
        return loss, Sums.of(losses | _of_tokens(tokens, result, entropies.detach(), kl.detach(), weights > 0))

    reports = accumulate(policy, batch.rows, row_loss, by_token=algorithm.loss in OF_TOKENS)
    totals = sum_over_job(policy, reports, REPORTED)
    result = step(policy, number, num_updates)
    metrics = totals.metrics() | {"actor/grad_norm": result.grad_norm, "actor/lr": result.lr}
    if not has_reference:
        del metrics["actor/kl_loss"]
    return metrics


def _of_tokens(
    tokens: Tokens, result: TokenLoss, entropies: torch.Tensor, kl: torch.Tensor, trained: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What a row's trained tokens add to each metric, and how many they are; trained [targets] bool."""
    log_ratio = (tokens.logprobs - tokens.old_logprobs).detach()
    return {
        "tokens": trained.sum(),
        "actor/pg_clipfrac": (result.clipped * trained).sum(),
        "actor/pg_clipfrac_lower": (result.clipped_lower * trained).sum(),
        "actor/ppo_kl": (-log_ratio * trained).sum(),
        "actor/entropy": (entropies * trained).sum(),
        "actor/kl_loss": (kl * trained).sum(),
        "actor/log_ratio_max": log_ratio.abs().amax() if len(log_ratio) else log_ratio.sum(),
    }
