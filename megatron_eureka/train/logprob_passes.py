"""The forward passes before an update: old log-probs, those of the reference, and the rollout correction."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import replace

import torch

from megatron_eureka.rl.correction import PARTS, correct, correction_metrics, correction_sums
from megatron_eureka.rl.kl import KL_ESTIMATORS
from megatron_eureka.runs.metrics import reduced
from megatron_eureka.train.batch import UpdateBatch
from megatron_eureka.train.policy import Policy, run_rows
from megatron_eureka.train.sums import Sums, sum_by_sample, sum_over_job
from megatron_eureka.train.train_row import TrainRow

MISMATCH = (*PARTS, *reduced("rollout_corr"))


def logprobs_of(policy: Policy, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
    """[rows][targets] float32 under the weights in place, on the last stage; empty tensors elsewhere."""

    def keep(row, logprobs, entropies):
        return logprobs.new_zeros(()), logprobs.detach()

    found = run_rows(policy, rows, keep, forward_only=True)
    return found if policy.is_last_stage else [torch.empty(0) for _ in rows]


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
    return replace(batch, rows=tuple(rows), mismatch=sum_over_job(policy, reports, MISMATCH))


def _corrected(policy: Policy, row: TrainRow, trainer: torch.Tensor) -> tuple[TrainRow, Sums]:
    """The row with old log-probs and corrections, and the sums over what can be measured; trainer [targets]."""
    options = policy.config.algorithm.correction
    engine, index, stale = (values.to(trainer.device) for values in (row.engine_logprobs, row.sample_index, row.stale))
    drawn, old = ~engine.isnan(), trainer
    if policy.config.rollout.samples_whole_vocabulary:
        old = torch.where(stale & drawn, engine, trainer)
    correction = correct(old, torch.where(drawn, engine, trainer), index, options)
    measured = drawn & ~stale
    sums = correction_sums(trainer[measured], engine[measured], index[measured], correction.of(measured), options)
    return replace(row, old_logprobs=old, correction=correction.weights), Sums.of(sums)


def mismatch_metrics(batches: Sequence[UpdateBatch]) -> dict[str, float]:
    """`rollout_corr/*` over all updates of a step."""
    mismatch = functools.reduce(operator.add, [batch.mismatch for batch in batches])
    return mismatch.metrics() | correction_metrics(mismatch.numbers())


def with_reference(policy: Policy, batch: UpdateBatch) -> UpdateBatch:
    """Log-probs under the reference, whose weights are in place; a collective."""
    pairs = zip(batch.rows, logprobs_of(policy, batch.rows), strict=True)
    return replace(batch, rows=tuple(replace(row, reference_logprobs=found) for row, found in pairs))


def kl_by_sample(policy: Policy, batch: UpdateBatch) -> torch.Tensor:
    """[samples] float32: the KL of each response from the reference, summed over its tokens; a collective."""
    estimate = KL_ESTIMATORS[policy.config.algorithm.kl.estimator]
    values = [estimate(row.old_logprobs - row.reference_logprobs) for row in batch.rows]
    return sum_by_sample(policy, batch.rows, values, len(batch.samples))
