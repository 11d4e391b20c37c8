"""The forward passes before an update: old log-probs, those of the reference, and the rollout correction."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from megatron_eureka.rl.correction import MAXIMA, SUMS, correct, correction_sums
from megatron_eureka.rl.kl import KL_ESTIMATORS
from megatron_eureka.train.batch import UpdateBatch
from megatron_eureka.train.policy import Policy, Report, run_rows
from megatron_eureka.train.totals import sum_by_sample, sum_over_job


@dataclass(frozen=True)
class Logprobs:
    """What the passes found for the rows of an update; empty tensors on other stages than the last."""

    old: list[torch.Tensor]  # [rows][targets] float32, under the weights that the step starts from
    correction: list[torch.Tensor]  # [rows][targets] float32, factors of the policy losses
    reference: list[torch.Tensor] | None = None  # [rows][targets] float32, under the starting model
    totals: dict[str, float] = field(default_factory=dict)  # of the rollout correction, see `correction_metrics`


def logprobs_of(policy: Policy, batch: UpdateBatch) -> list[torch.Tensor]:
    """[rows][targets] float32 under the weights in place, on the last stage; empty tensors elsewhere."""
    reports = run_rows(policy, batch.rows, lambda number, row, logprobs, _: _keep(logprobs), forward_only=True)
    if not policy.is_last_stage:
        return [torch.empty(0) for _ in batch.rows]
    return [report["logprobs"] for report in reports]


def _keep(logprobs: torch.Tensor) -> tuple[torch.Tensor, Report]:
    return logprobs.new_zeros(()), {"logprobs": logprobs.detach()}


def old_logprobs(policy: Policy, batch: UpdateBatch) -> Logprobs:
    """Log-probs before any update of the step, and how far the engine's are from them; a collective.

    Samples of an older policy version keep the engine's log-probs: those are the policy that drew them. (Below the full
    vocabulary they are not: an engine's log-probs are those within the nucleus, and the trainer's, of the weights that
    the step starts from, take their place.) They are left out of the totals, as are tokens that no engine drew: neither
    says how far engine and trainer are apart.
    """
    found = logprobs_of(policy, batch)
    options, whole_vocabulary = policy.config.algorithm.correction, policy.config.rollout.samples_whole_vocabulary
    weights, reports = [torch.empty(0) for _ in batch.rows], []
    for number, row in enumerate(batch.rows if policy.is_last_stage else ()):
        trainer, engine = found[number], batch.engine_logprobs(row).to(found[number].device)
        index = row.sample_index.to(trainer.device)
        drawn, stale = ~engine.isnan(), batch.stale.to(trainer.device)[index]
        if whole_vocabulary:
            found[number] = torch.where(stale & drawn, engine, trainer)
        correction = correct(found[number], torch.where(drawn, engine, trainer), index, options)
        weights[number] = correction.weights
        told = drawn & ~stale
        reports.append(correction_sums(trainer[told], engine[told], index[told], correction.of(told), options))
    return Logprobs(found, weights, totals=sum_over_job(policy, reports, SUMS, MAXIMA))


def kl_by_sample(policy: Policy, batch: UpdateBatch, logprobs: Logprobs) -> torch.Tensor:
    """[samples] float32: the KL of each response from the reference, summed over its tokens; a collective."""
    estimate = KL_ESTIMATORS[policy.config.algorithm.kl.estimator]
    pairs = zip(logprobs.old, logprobs.reference, strict=True)
    return sum_by_sample(policy, batch.rows, [estimate(old - ref) for old, ref in pairs], len(batch.samples))
