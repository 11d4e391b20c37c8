"""Advantages of all samples of a step: the estimator on each group, then whitening, then ADORA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megatron_eureka.config.algorithm import Algorithm
from megatron_eureka.rl.advantages import ESTIMATORS, WHITENED, adora, whiten
from megatron_eureka.types import Group


@dataclass(frozen=True)
class StepAdvantages:
    """One number a sample, and what made it."""

    values: torch.Tensor  # [samples] float32, group after group
    adora_weights: torch.Tensor  # [groups] float32, 1 where ADORA is off or changed nothing
    penalties: torch.Tensor | None = None  # [samples] float32 that were taken off the rewards


def step_advantages(
    groups: Sequence[Group], options: Algorithm, penalties: torch.Tensor | None = None
) -> StepAdvantages:
    """Advantages from the samples' total rewards; the same on every rank, for all know all samples.

    Args:
        penalties: [samples] float32 that are taken off the rewards before anything else, such as a KL penalty.
    """
    samples = [sample for group in groups for sample in group.samples]
    rewards = torch.tensor([sample.rewards["total"] for sample in samples])
    estimate, sizes = ESTIMATORS[options.advantage], [len(group.samples) for group in groups]
    totals = rewards if penalties is None else rewards - penalties
    values = torch.cat([estimate(part) for part in totals.split(sizes)])
    if options.advantage in WHITENED:
        values = whiten(values, torch.tensor([sample.num_trained for sample in samples]))
    weights = torch.ones(len(groups))
    if options.adora.enabled:
        lengths = torch.tensor([len(sample.token_ids) for sample in samples])
        truncated = torch.tensor([sample.truncated for sample in samples])
        parts = zip(rewards.split(sizes), lengths.split(sizes), truncated.split(sizes), strict=True)
        weights = torch.tensor([adora(*part, options.adora.weight) for part in parts])
    return StepAdvantages(values * weights.repeat_interleave(torch.tensor(sizes)), weights, penalties)
