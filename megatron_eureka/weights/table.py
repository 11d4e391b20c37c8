"""The one table of weights: each Megatron parameter of a model, the Hugging Face tensors it is made of, and how.

Everything that moves weights (loading, export, the live sync, offline tools) reads `table`. The rules are the family's;
what a rule means for a rank is in `cuts.py`.
"""

from __future__ import annotations

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.families import family_of
from megatron_eureka.families.rules import HfTensor, Rule

# Counted up whenever a name or a layout changes: what an older table wrote would be read wrongly.
TABLE_VERSION = 1


def table(info: ModelInfo) -> tuple[Rule, ...]:
    """All rules of a model, in the order of the forward pass: tower, embedding, layers, final norm, head."""
    return family_of(info).rules(info)


def hf_tensors(info: ModelInfo) -> dict[str, HfTensor]:
    """What a checkpoint of the model holds, by name, in table order: each tensor once."""
    return {tensor.name: tensor for rule in table(info) if rule.exported for tensor in rule.sources}


def rules_by_name(info: ModelInfo) -> dict[str, Rule]:
    """Rules by the Megatron name, under either layer spec."""
    rules = table(info)
    return {rule.name: rule for rule in rules} | {rule.alias: rule for rule in rules if rule.alias}


def vision_tensors(info: ModelInfo) -> list[str]:
    """Names of the Hugging Face tensors of the vision tower, in table order."""
    return [tensor.name for rule in table(info) if rule.vision for tensor in rule.sources]


def check_tp_size(info: ModelInfo, tp_size: int) -> None:
    """Refuse a tensor-parallel size that does not divide what it cuts.

    Raises:
        ValueError: naming the size that is not divisible.
    """
    cut = {"num_kv_heads": info.num_kv_heads, "ffn_size": info.ffn_size, "vocab_size": info.vocab_size}
    for name, size in cut.items():
        if size % tp_size:
            raise ValueError(
                f"Tensor-parallel size {tp_size} does not divide the model's {name} of {size}. "
                f"Choose a size that divides {', '.join(f'{key} {value}' for key, value in cut.items())}."
            )
