"""Names and layouts of weights, and the files they lie in."""

from megatron_eureka.weights.companions import describe, read_description
from megatron_eureka.weights.conversion import Conversion, clear_errors
from megatron_eureka.weights.hf_writer import HfWriter, save_hf
from megatron_eureka.weights.layout import Cut, cuts, hf_to_shard, shard_shape, shards_to_hf
from megatron_eureka.weights.load import check_finite, check_hf_keys, check_megatron_keys, load_hf
from megatron_eureka.weights.table import HfTensor, Rule, check_tp_size, hf_tensors, rules_by_name, table
from megatron_eureka.weights.to_hf import megatron_to_hf
from megatron_eureka.weights.to_megatron import hf_to_megatron
from megatron_eureka.weights.verify import Difference, Verification, verify

__all__ = [
    "Conversion",
    "Cut",
    "Difference",
    "HfTensor",
    "HfWriter",
    "Rule",
    "Verification",
    "check_finite",
    "check_hf_keys",
    "check_megatron_keys",
    "check_tp_size",
    "clear_errors",
    "cuts",
    "describe",
    "hf_tensors",
    "hf_to_megatron",
    "hf_to_shard",
    "load_hf",
    "megatron_to_hf",
    "read_description",
    "rules_by_name",
    "save_hf",
    "shard_shape",
    "shards_to_hf",
    "table",
    "verify",
]
