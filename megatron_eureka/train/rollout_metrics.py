"""Numbers of a step that come from its samples; their names and meanings are in `runs/metric_table.py`."""

from __future__ import annotations

import math
import resource
import statistics
from collections.abc import Sequence

import torch
import torch.distributed as dist

from megatron_eureka.config.algorithm import Algorithm
from megatron_eureka.log import logger
from megatron_eureka.planner.flops import flops_of_rows, peak_flops, tower_flops
from megatron_eureka.rl.step_advantages import StepAdvantages
from megatron_eureka.rollout.collect import Collected
from megatron_eureka.runs.timers import Timers
from megatron_eureka.train.policy import Policy
from megatron_eureka.types import Group, MicroBatch

# Of a step's collecting, by name.
COUNTERS = (
    *("filter/kept", "filter/dropped_easy", "filter/dropped_hard", "filter/stale", "filter/buffer"),
    *("rollout/prompts", "rollout/refused", "rollout/rounds"),
)


def rollout_metrics(collected: Collected, policy_version: int) -> dict[str, float]:
    """Rewards and lengths of everything generated, the filter's counts, and the age of what is trained on.

    Args:
        policy_version: of the weights that the engines hold now, after the step's update.
    """
    groups: Sequence[Group] = collected.generated or collected.groups
    samples = [sample for group in groups for sample in group.samples]
    names = dict.fromkeys(name for sample in samples for name in sample.rewards)
    metrics = {f"reward/{name}/mean": statistics.fmean(s.rewards.get(name, 0.0) for s in samples) for name in names}
    spreads = [statistics.pstdev(sample.rewards["total"] for sample in group.samples) for group in groups]
    lengths = [len(sample.token_ids) for sample in samples]
    ages = [policy_version - 1 - group.policy_version for group in collected.groups]
    metrics |= {
        "reward/group_std/mean": statistics.fmean(spreads),
        "response_length/mean": statistics.fmean(lengths),
        "response_length/max": float(max(lengths)),
        "response_length/clip_ratio": statistics.fmean(sample.truncated for sample in samples),
        "prompt_length/mean": statistics.fmean(group.prompt.num_tokens for group in groups),
        "filter/staleness/mean": statistics.fmean(ages),
        "filter/staleness/max": float(max(ages)),
    }
    metrics |= {f"reward/failed/{name}": share for name, share in collected.failed.items()}
    return metrics | {name: float(collected.counters.get(name, 0)) for name in COUNTERS}


def advantage_metrics(advantages: StepAdvantages, options: Algorithm) -> dict[str, float]:
    """Spread of the advantages, groups that ADORA weighed down, and the KL penalty where rewards bear it."""
    values = advantages.values
    metrics = {
        "advantage/mean": float(values.mean()),
        "advantage/std": float(values.std()) if len(values) > 1 else 0.0,
        "advantage/zero_fraction": float((values == 0).float().mean()),
    }
    if options.adora.enabled:
        metrics["advantage/adora/weighted_down"] = float((advantages.adora_weights != 1).float().mean())
    if advantages.penalties is not None:
        metrics["reward/kl_penalty/mean"] = float(advantages.penalties.mean())
    return metrics


def warn_of_mismatch(metrics: dict[str, float], alarm: float) -> None:
    """Say so when the engine's probabilities are too far from the trainer's; also noted as `rollout_corr/alarm`."""
    difference = metrics["rollout_corr/probs_diff_mean"]
    metrics["rollout_corr/alarm"] = float(difference > alarm)
    if difference > alarm:
        logger.warning(
            "engine and trainer give the same tokens probabilities that differ by %.4f on average, over "
            "algorithm.correction.alarm = %g: check that weights arrive (rollout/policy_version), that both use one "
            "precision and temperature, and see algorithm.correction for what can be corrected",
            *(difference, alarm),
        )


def vision_counts(policy: Policy, images_asked: int) -> dict[str, float]:
    """This rank's images that went through the frozen tower in this step, and distinct ones that were asked for."""
    passes, asked = 0, 0
    if policy.encoder is not None:
        passes = policy.encoder.take_passes()
        asked = images_asked if dist.get_rank(policy.groups.tp) == 0 else 0  # all ranks of a replica ask for the same
    return {"vision/tower_passes": passes, "vision/distinct_images": asked}


def throughput(policy: Policy, rows: Sequence[MicroBatch], timers: Timers) -> dict[str, float]:
    """Training speed of the step: operations of the old-log-prob and update passes over the time they took.

    An update counts as three forward passes, the frozen tower as one of each image it encoded; `mfu` is there only
    where the GPU's peak is known.
    """
    info = policy.info
    patches = sum(math.prod(image.grid_thw) for image in {image for row in rows for image in row.images})
    flops = 4 * flops_of_rows(info, rows) + tower_flops(info.vision, patches)
    total = torch.tensor([flops], dtype=torch.float64, device=next(policy.model[0].parameters()).device)
    dist.all_reduce(total, group=policy.groups.dp)  # every tensor- and pipeline-parallel rank counts the whole rows
    seconds = timers.seconds("old_logprob") + timers.seconds("update")
    per_rank = float(total) / dist.get_world_size() / seconds
    metrics = {"perf/tflops_per_gpu": per_rank / 1e12}
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return {**metrics, "perf/mfu": per_rank / peak} if peak else metrics


def performance(collected: Collected, seconds: float) -> dict[str, float]:
    """Tokens (prompts once a group, and responses) a second of the whole step, and this rank's peak memory."""
    groups = collected.generated or collected.groups
    tokens = sum(group.prompt.num_tokens + sum(len(s.token_ids) for s in group.samples) for group in groups)
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    return {"perf/tokens_per_s": tokens / seconds, "perf/memory_peak_gib": peak, "timing_s/step": seconds}
