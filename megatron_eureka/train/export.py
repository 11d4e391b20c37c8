"""The policy's weights for others: as a stream for engines, as a Hugging Face folder at the end of a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist

from megatron_eureka.bridge.source import ShardedSource
from megatron_eureka.checkpoints import export_hf
from megatron_eureka.log import logger
from megatron_eureka.train.policy import Policy
from megatron_eureka.weights import table

if TYPE_CHECKING:
    from megatron_eureka.train.run import Run


def weight_source(policy: Policy) -> ShardedSource:
    """The weights as full Hugging Face tensors; a collective over all ranks, and so are its streams."""
    frozen = [rule.name for rule in table(policy.info) if rule.vision]
    return ShardedSource(
        policy.weights(),
        policy.info,
        tp_group=policy.groups.tp,
        pp_group=policy.groups.pp,
        bucket_bytes=policy.config.rollout.sync_bucket_mib << 20,
        frozen=frozen if policy.config.model.freeze_vision else (),
    )


def export(run: Run, next_command: str) -> Path:
    """Write a Hugging Face folder with tokenizer and processor, and say where; a collective over all ranks.

    Args:
        next_command: what may follow, with `{folder}` in it.
    """
    target, source = run.folder.export, run.weight_source
    if run.is_reporting_rank and target.exists():
        shutil.rmtree(target)  # of a run that was cut off right after exporting
    export_hf(source.stream(), target, run.policy.source.hf, source.num_tensors, run.is_reporting_rank)
    dist.barrier()
    logger.info("exported to %s; next: %s", target, next_command.format(folder=target))
    return target
