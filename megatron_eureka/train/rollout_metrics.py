"""Numbers of a step that come from its samples, under the field's names."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Sequence

import torch
import torch.distributed as dist

from megatron_eureka.rollout.collect import Collected
from megatron_eureka.train.policy import Policy
from megatron_eureka.types import Group


def rollout_metrics(collected: Collected, advantages: torch.Tensor) -> dict[str, float]:
    """Rewards and lengths of everything generated, the filter's counts, advantages of what is trained on."""
    groups: Sequence[Group] = collected.generated or collected.groups
    samples = [sample for group in groups for sample in group.samples]
    names = dict.fromkeys(name for sample in samples for name in sample.rewards)
    metrics = {f"reward/{name}/mean": statistics.fmean(s.rewards.get(name, 0.0) for s in samples) for name in names}
    spreads = [statistics.pstdev(sample.rewards["total"] for sample in group.samples) for group in groups]
    lengths = [len(sample.token_ids) for sample in samples]
    metrics |= {
        "reward/group_std/mean": statistics.fmean(spreads),
        "response_length/mean": statistics.fmean(lengths),
        "response_length/max": float(max(lengths)),
        "response_length/clip_ratio": statistics.fmean(sample.truncated for sample in samples),
        "prompt_length/mean": statistics.fmean(group.prompt.num_tokens for group in groups),
        "advantage/mean": float(advantages.mean()),
        "advantage/std": float(advantages.std()) if len(advantages) > 1 else 0.0,
        "advantage/zero_fraction": float((advantages == 0).float().mean()),
    }
    counts = ("filter/kept", "filter/dropped_easy", "filter/dropped_hard", "filter/stale", "rollout/refused")
    return metrics | {name: float(collected.counters.get(name, 0)) for name in counts}


def vision_metrics(policy: Policy, images_asked: int) -> dict[str, float]:
    """Images that went through the frozen tower in this step, and distinct ones that were asked for, over the job."""
    counts = torch.zeros(2, dtype=torch.float64)
    if policy.encoder is not None and dist.get_rank(policy.groups.tp) == 0:
        counts = torch.tensor([policy.encoder.take_passes(), images_asked], dtype=torch.float64)
    counts = counts.to(next(policy.model[0].parameters()).device)
    dist.all_reduce(counts)
    return {"vision/tower_passes": float(counts[0]), "vision/distinct_images": float(counts[1])}


def performance(collected: Collected, seconds: float) -> dict[str, float]:
    """Tokens (prompts once a group, and responses) a second of the whole step, and this rank's peak memory."""
    groups = collected.generated or collected.groups
    tokens = sum(group.prompt.num_tokens + sum(len(s.token_ids) for s in group.samples) for group in groups)
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    return {"perf/tokens_per_s": tokens / seconds, "perf/memory_peak_gib": peak, "timing_s/step": seconds}
