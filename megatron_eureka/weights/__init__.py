"""What is where: the one table of weights, and the cuts by which a tensor-parallel rank's parameter is made of them."""

from megatron_eureka.families.rules import HfTensor, Rule
from megatron_eureka.weights.cuts import Cut, cuts, hf_to_shard, match_rules, shard_shape, shards_to_hf
from megatron_eureka.weights.table import check_tp_size, hf_tensors, rules_by_name, table, vision_tensors

__all__ = [
    "Cut",
    "HfTensor",
    "Rule",
    "check_tp_size",
    "cuts",
    "hf_tensors",
    "hf_to_shard",
    "match_rules",
    "rules_by_name",
    "shard_shape",
    "shards_to_hf",
    "table",
    "vision_tensors",
]
