"""The two passes of a GRPO update over its rows: old log-probs, then gradients and the optimizer step."""

from __future__ import annotations

import torch
import torch.distributed as dist

from megatron_eureka.config.schema import Algorithm
from megatron_eureka.rl.losses import LOSSES
from megatron_eureka.train.batch import UpdateBatch
from megatron_eureka.train.policy import Policy, Report, accumulate, run_rows, step
from megatron_eureka.types import MicroBatch

SUMS = ("tokens", "loss", "clipped", "clipped_lower", "log_ratio", "entropy", "ratio_deviation")
CORRECTION_SUMS = ("tokens", "log_ratio", "k3", "weight", "weight_squared", "diff")


def old_logprobs(policy: Policy, batch: UpdateBatch) -> list[torch.Tensor]:
    """[rows][targets] log-probs before any update of the step, on the last stage; empty tensors elsewhere.

    Samples of an older policy version keep the engine's log-probs: those are the policy that drew them.
    """
    reports = run_rows(policy, batch.rows, lambda number, row, logprobs, _: _keep(logprobs), forward_only=True)
    if not policy.is_last_stage:
        return [torch.empty(0) for _ in batch.rows]
    return [_of_the_sampler(batch, row, report["logprobs"]) for row, report in zip(batch.rows, reports, strict=True)]


def _of_the_sampler(batch: UpdateBatch, row: MicroBatch, logprobs: torch.Tensor) -> torch.Tensor:
    if not batch.stale.any():
        return logprobs
    return torch.where(
        batch.stale[row.sample_index].to(logprobs.device), batch.engine_logprobs(row).to(logprobs.device), logprobs
    )


def _keep(logprobs: torch.Tensor) -> tuple[torch.Tensor, Report]:
    return logprobs.new_zeros(()), {"logprobs": logprobs.detach()}


def update(
    policy: Policy, batch: UpdateBatch, old: list[torch.Tensor], number: float, num_updates: int
) -> dict[str, float]:
    """One optimizer step on a batch; a collective over the whole layout.

    Args:
        old: what `old_logprobs` returned for the same batch.
        number: 0-based place of this update in the run of `num_updates`, see `learning_rate`.

    Returns:
        metrics named `actor/*`, the same on every rank.
    """
    algorithm = policy.config.algorithm
    loss_function = LOSSES[algorithm.loss]

    def row_loss(row_number: int, row: MicroBatch, logprobs: torch.Tensor, entropies: torch.Tensor):
        on_device = lambda values: values.to(logprobs.device)[row.sample_index]
        advantages, weights = on_device(batch.advantages), on_device(batch.weights)
        result = loss_function(logprobs, old[row_number], advantages, **_clip_options(algorithm))
        loss = (weights * (result.loss - algorithm.entropy_coef * entropies)).sum()
        log_ratio = (logprobs - old[row_number]).detach()
        trained = (weights > 0).float()
        sums = {
            "tokens": trained.sum(),
            "loss": loss.detach(),
            "clipped": (result.clipped * trained).sum(),
            "clipped_lower": (result.clipped_lower * trained).sum(),
            "log_ratio": (-log_ratio * trained).sum(),
            "entropy": (entropies.detach() * trained).sum(),
            "ratio_deviation": log_ratio.abs().amax() if len(log_ratio) else log_ratio.sum(),
        }
        return loss, sums

    reports = accumulate(policy, batch.rows, row_loss)
    totals = sum_over_job(policy, reports, SUMS, maxima=("ratio_deviation",))
    result = step(policy, number, num_updates)
    tokens = max(totals["tokens"], 1.0)
    return {
        "actor/loss": totals["loss"],
        "actor/pg_clipfrac": totals["clipped"] / tokens,
        "actor/pg_clipfrac_lower": totals["clipped_lower"] / tokens,
        "actor/ppo_kl": totals["log_ratio"] / tokens,
        "actor/entropy": totals["entropy"] / tokens,
        "actor/log_ratio_max": totals["ratio_deviation"],
        "actor/grad_norm": result.grad_norm,
        "actor/lr": result.lr,
    }


def _clip_options(algorithm: Algorithm) -> dict[str, float]:
    return {"clip_low": algorithm.clip_low, "clip_high": algorithm.clip_high, "dual_clip": algorithm.dual_clip}


def rollout_correction(policy: Policy, batch: UpdateBatch, old: list[torch.Tensor]) -> dict[str, float]:
    """How far the engine's log-probs are from the trainer's on the same tokens: metrics named `rollout_corr/*`.

    kl is the mean of engine - trainer over tokens drawn by the engine, k3_kl its non-negative estimator, ess the share
    of effective samples under the importance weights, probs_diff_* the differences of probabilities.
    """
    reports: list[Report] = []
    for row, trainer in zip(batch.rows, old, strict=True) if policy.is_last_stage else ():
        engine = batch.engine_logprobs(row).to(trainer.device)
        log_ratio = trainer - engine
        weight = log_ratio.exp()
        diff = (trainer.exp() - engine.exp()).abs()
        reports.append(
            {
                "tokens": log_ratio.new_tensor(float(len(log_ratio))),
                "log_ratio": -log_ratio.sum(),
                "k3": (weight - 1 - log_ratio).sum(),
                "weight": weight.sum(),
                "weight_squared": weight.square().sum(),
                "diff": diff.sum(),
                "diff_max": diff.amax() if len(diff) else diff.sum(),
            }
        )
    totals = sum_over_job(policy, reports, (*CORRECTION_SUMS, "diff_max"), maxima=("diff_max",))
    tokens = max(totals["tokens"], 1.0)
    return {
        "rollout_corr/kl": totals["log_ratio"] / tokens,
        "rollout_corr/k3_kl": totals["k3"] / tokens,
        "rollout_corr/ess": totals["weight"] ** 2 / max(totals["weight_squared"], 1e-30) / tokens,
        "rollout_corr/probs_diff_mean": totals["diff"] / tokens,
        "rollout_corr/probs_diff_max": totals["diff_max"],
    }


def sum_over_job(
    policy: Policy, reports: list[Report], names: tuple[str, ...], maxima: tuple[str, ...] = ()
) -> dict[str, float]:
    """Add up what the rows of all replicas reported; known on every rank afterwards.

    Only one tensor-parallel rank of each last stage speaks: the others hold the same numbers.
    """
    speaks = policy.is_last_stage and dist.get_rank(policy.groups.tp) == 0
    device = next(policy.model[0].parameters()).device
    values = torch.zeros(len(names), dtype=torch.float64, device=device)
    tops = torch.full((len(names),), -torch.inf, dtype=torch.float64, device=device)
    for report in reports if speaks else ():
        row = torch.stack([report[name].double() for name in names])
        values, tops = values + row, torch.maximum(tops, row)
    dist.all_reduce(values)
    dist.all_reduce(tops, op=dist.ReduceOp.MAX)
    return {name: float(tops[i] if name in maxima else values[i]) for i, name in enumerate(names)}
