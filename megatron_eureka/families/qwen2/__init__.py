"""Qwen2 and Qwen2.5, dense, text alone: the decoder with positions of one axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.families.decoder import decoder_rules, decoder_sizes
from megatron_eureka.families.family import Family
from megatron_eureka.families.unsupported import unsupported


def _sizes(raw: Mapping[str, Any]) -> ModelInfo:
    sizes = decoder_sizes(raw)
    # The three axes of a text's positions are equal, so that all frequencies may follow the first.
    section = (sizes["head_dim"] // 2, 0, 0)
    return ModelInfo(family="qwen2", **sizes, tied=bool(raw.get("tie_word_embeddings")), mrope_section=section)


QWEN2 = Family(
    name="qwen2",
    title="Qwen2.5",
    architecture="Qwen2ForCausalLM",
    sizes=_sizes,
    unsupported=unsupported,
    rules=decoder_rules,
    chunk="megatron_eureka.model.qwen2:Qwen2",
    transformers_class="transformers:Qwen2ForCausalLM",
    vllm_class="vllm.model_executor.models.qwen2:Qwen2ForCausalLM",
    positions="megatron_eureka.families.qwen2.positions:text_positions",
)
