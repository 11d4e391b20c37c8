"""Trainers made of nothing but their shards: a (tp, pp) grid over forked ranks."""

import torch.distributed as dist

from megatron_eureka.checkpoints import load_hf
from megatron_eureka.families.source import ModelSource
from tests.checkpoints.stages import empty_stage


def grid(rank, tp, pp):
    """This rank's tensor-parallel and pipeline groups, Megatron's order: tensor parallelism over neighbours."""
    tp_groups = [dist.new_group([stage * tp + index for index in range(tp)]) for stage in range(pp)]
    pp_groups = [dist.new_group([stage * tp + index for stage in range(pp)]) for index in range(tp)]
    return (tp_groups[rank // tp] if tp > 1 else None), (pp_groups[rank % tp] if pp > 1 else None)


def shards(folder, rank, tp, pp, spec="te"):
    """This rank's parameters, loaded from a folder."""
    info = ModelSource.open(folder).info
    parameters = empty_stage(info, rank // tp, pp, tp, spec)
    load_hf(folder, parameters, info, rank % tp, tp)
    return info, parameters
