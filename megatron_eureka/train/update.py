"""One optimizer step of GRPO over the rows of an update."""

from __future__ import annotations

import torch

from megatron_eureka.rl.kl import KL_ESTIMATORS
from megatron_eureka.rl.losses import LOSSES, OF_TOKENS, TokenLoss, Tokens
from megatron_eureka.train.batch import UpdateBatch
from megatron_eureka.train.policy import WHOLE, Policy, Report, accumulate, step
from megatron_eureka.train.totals import sum_over_job
from megatron_eureka.train.train_row import TrainRow

SUMS = ("tokens", "loss", "policy_loss", "clipped", "clipped_lower", "log_ratio", "entropy", "kl", "ratio_deviation")


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
        sums = {"loss": loss.detach(), "policy_loss": (weights * policy_loss).sum().detach()}
        return loss, sums | _report(tokens, result, entropies.detach(), kl.detach(), (weights > 0).float())

    reports = accumulate(policy, batch.rows, row_loss, by_token=algorithm.loss in OF_TOKENS)
    totals = sum_over_job(policy, reports, SUMS, maxima=("ratio_deviation",))
    result = step(policy, number, num_updates)

    def mean(name):
        return totals[name] / max(totals["tokens"], 1.0)

    metrics = {
        "actor/loss": totals["loss"],
        "actor/pg_loss": totals["policy_loss"],
        "actor/pg_clipfrac": mean("clipped"),
        "actor/pg_clipfrac_lower": mean("clipped_lower"),
        "actor/ppo_kl": mean("log_ratio"),
        "actor/entropy": mean("entropy"),
        "actor/log_ratio_max": totals["ratio_deviation"],
        "actor/grad_norm": result.grad_norm,
        "actor/lr": result.lr,
    }
    return metrics | ({"actor/kl_loss": mean("kl")} if has_reference else {})


def _report(
    tokens: Tokens, result: TokenLoss, entropies: torch.Tensor, kl: torch.Tensor, trained: torch.Tensor
) -> Report:
    """Sums over the trained tokens of a row."""
    log_ratio = (tokens.logprobs - tokens.old_logprobs).detach()
    return {
        "tokens": trained.sum(),
        "clipped": (result.clipped * trained).sum(),
        "clipped_lower": (result.clipped_lower * trained).sum(),
        "log_ratio": (-log_ratio * trained).sum(),
        "entropy": (entropies * trained).sum(),
        "kl": (kl * trained).sum(),
        "ratio_deviation": log_ratio.abs().amax() if len(log_ratio) else log_ratio.sum(),
    }
