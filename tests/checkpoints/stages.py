"""Empty local parameters of a pipeline stage, as a trainer would hold them, for tests without a trainer."""

import torch

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.weights import rules_by_name, shard_shape, table


def stage_names(info: ModelInfo, pp_rank: int, pp_size: int, spec: str = "te") -> list[str]:
    """Parameter names of one stage with an even split of the layers; tied stages hold what Megatron gives them."""
    per_stage = info.num_layers // pp_size
    layers = range(pp_rank * per_stage, info.num_layers if pp_rank == pp_size - 1 else (pp_rank + 1) * per_stage)
    names = []
    for rule in table(info):
        parts = rule.name.split(".")
        if ".layers." in rule.name:
            here = int(parts[parts.index("layers") + 1]) in layers
        elif "output_layer" in rule.name:
            here = pp_rank == pp_size - 1 and not (info.tied and pp_size == 1)
        elif "final_layernorm" in rule.name:
            here = pp_rank == pp_size - 1
        else:
            here = pp_rank == 0
        if here:
            names.append(rule.alias if spec == "local" and rule.alias else rule.name)
    return names


def empty_stage(info, pp_rank, pp_size, tp_size, spec="te", dtype=torch.float32) -> dict[str, torch.Tensor]:
    """The stage's tensors at a tensor-parallel size, filled with NaN so that an untouched one shows."""
    rules = rules_by_name(info)
    return {
        name: torch.full(shard_shape(rules[name], tp_size), torch.nan, dtype=dtype)
        for name in stage_names(info, pp_rank, pp_size, spec)
    }
