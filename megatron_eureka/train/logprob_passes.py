"""The forward passes before an update: old log-probs, those of the reference, and the rollout correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from megatron_eureka.rl.correction import MAXIMA, SUMS, correct, correction_sums
from megatron_eureka.rl.kl import KL_ESTIMATORS
from megatron_eureka.train.batch import UpdateBatch
from megatron_eureka.train.policy import Policy, Report, run_rows
from megatron_eureka.train.totals import sum_by_sample, sum_over_job
from megatron_eureka.train.train_row import TrainRow


def logprobs_of(policy: Policy, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
    """[rows][targets] float32 under the weights in place, on the last stage; empty tensors elsewhere."""
    reports = run_rows(policy, rows, lambda row, logprobs, _: _keep(logprobs), forward_only=True)
    if not policy.is_last_stage:
        return [torch.empty(0) for _ in rows]
    return [report["logprobs"] for report in reports]


def _keep(logprobs: torch.Tensor) -> tuple[torch.Tensor, Report]:
    return logprobs.new_zeros(()), {"logprobs": logprobs.detach()}


def with_old_logprobs(policy: Policy, batch: UpdateBatch) -> UpdateBatch:
    """Log-probs before any update of the step, and how far the engine's are from them; a collective.

    Samples of an older policy version keep the engine's log-probs: those are the policy that drew them. (Below the full
    vocabulary they are not: an engine's log-probs are those within the nucleus, and the trainer's, of the weights that
    the step starts from, take their place.) They are left out of the sums, as are tokens that no engine drew: neither
    says how far engine and trainer are apart.
    """
    found = logprobs_of(policy, batch.rows)
    if policy.is_last_stage:
        pairs = [_corrected(policy, row, trainer) for row, trainer in zip(batch.rows, found, strict=True)]
        rows, reports = zip(*pairs, strict=True)
    else:
        rows = [replace(row, old_logprobs=none, correction=none) for row, none in zip(batch.rows, found, strict=True)]
        reports = ()
    return replace(batch, rows=tuple(rows), mismatch=sum_over_job(policy, reports, SUMS, MAXIMA))


def _corrected(policy: Policy, row: TrainRow, trainer: torch.Tensor) -> tuple[TrainRow, Report]:
    """The row with old log-probs and corrections, and the sums over what can be measured; trainer [targets]."""
    options = policy.config.algorithm.correction
    engine, index, stale = (values.to(trainer.device) for values in (row.engine_logprobs, row.sample_index, row.stale))
    drawn, old = ~engine.isnan(), trainer
    if policy.config.rollout.samples_whole_vocabulary:
        old = torch.where(stale & drawn, engine, trainer)
    correction = correct(old, torch.where(drawn, engine, trainer), index, options)
    told = drawn & ~stale
    sums = correction_sums(trainer[told], engine[told], index[told], correction.of(told), options)
    return replace(row, old_logprobs=old, correction=correction.weights), sums


def with_reference(policy: Policy, batch: UpdateBatch) -> UpdateBatch:
    """Log-probs under the reference, whose weights are in place; a collective."""
    pairs = zip(batch.rows, logprobs_of(policy, batch.rows), strict=True)
    return replace(batch, rows=tuple(replace(row, reference_logprobs=found) for row, found in pairs))


def kl_by_sample(policy: Policy, batch: UpdateBatch) -> torch.Tensor:
    """[samples] float32: the KL of each response from the reference, summed over its tokens; a collective."""
    estimate = KL_ESTIMATORS[policy.config.algorithm.kl.estimator]
    values = [estimate(row.old_logprobs - row.reference_logprobs) for row in batch.rows]
    return sum_by_sample(policy, batch.rows, values, len(batch.samples))
