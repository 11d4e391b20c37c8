"""Sums over a job of what the rows of its last stages report."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from megatron_eureka.train.policy import Policy, Report
from megatron_eureka.train.train_row import TrainRow


def sum_over_job(
    policy: Policy, reports: Sequence[Report], names: Sequence[str], maxima: Sequence[str] = ()
) -> dict[str, float]:
    """Add up what the rows of all replicas reported, or take the largest of `maxima`; known on every rank afterwards.

    Only one tensor-parallel rank of each last stage speaks: the others hold the same numbers.
    """
    device = next(policy.model[0].parameters()).device
    values = torch.zeros(len(names), dtype=torch.float64, device=device)
    tops = torch.full((len(names),), -torch.inf, dtype=torch.float64, device=device)
    for report in reports if _speaks(policy) else ():
        row = torch.stack([report[name].double() for name in names])
        values, tops = values + row, torch.maximum(tops, row)
    dist.all_reduce(values)
    dist.all_reduce(tops, op=dist.ReduceOp.MAX)
    return {name: float(tops[i] if name in maxima else values[i]) for i, name in enumerate(names)}


def sum_by_sample(
    policy: Policy, rows: Sequence[TrainRow], values: Sequence[torch.Tensor], num_samples: int
) -> torch.Tensor:
    """[num_samples] float32 sums of the values of each sample's tokens, over all replicas; the same on every rank.

    Args:
        values: [rows][targets] on the last stage; anything elsewhere.
    """
    sums = torch.zeros(num_samples, dtype=torch.float64, device=next(policy.model[0].parameters()).device)
    if _speaks(policy):
        for row, tokens in zip(rows, values, strict=True):
            sums.index_add_(0, row.sample_index.to(sums.device), tokens.double())
    dist.all_reduce(sums)
    return sums.float().cpu()


def _speaks(policy: Policy) -> bool:
    return policy.is_last_stage and dist.get_rank(policy.groups.tp) == 0
