"""Names and layouts of weights, and the files they lie in."""

from megatron_eureka.weights.hf_writer import HfWriter, save_hf
from megatron_eureka.weights.layout import Cut, cuts, hf_to_shard, shard_shape, shards_to_hf
from megatron_eureka.weights.load import check_hf_keys, load_hf
from megatron_eureka.weights.table import HfTensor, Rule, check_tp_size, hf_tensors, rules_by_name, table

__all__ = [
    "Cut",
    "HfTensor",
    "HfWriter",
    "Rule",
    "check_hf_keys",
    "check_tp_size",
    "cuts",
    "hf_tensors",
    "hf_to_shard",
    "load_hf",
    "rules_by_name",
    "save_hf",
    "shard_shape",
    "shards_to_hf",
    "table",
]
