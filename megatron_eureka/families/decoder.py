"""The decoder that the Qwen2 families share: its sizes in config.json, and its weights.

A layer has biases on q, k and v alone, RMS norms, grouped queries and a gated SiLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.families.rules import HfTensor, Rule, replicated

EMBEDDING = "model.embed_tokens.weight"


def decoder_sizes(section: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `ModelInfo` that a decoder's entries of config.json give; no release leaves one of them out.

    Raises:
        KeyError: one is missing; its argument is the entry's name.
    """
    rope = rope_entries(section)
    return {
        "hidden_size": section["hidden_size"],
        "num_layers": section["num_hidden_layers"],
        "num_heads": section["num_attention_heads"],
        "num_kv_heads": section["num_key_value_heads"],
        "head_dim": section.get("head_dim") or section["hidden_size"] // section["num_attention_heads"],
        "ffn_size": section["intermediate_size"],
        "vocab_size": section["vocab_size"],
        "rms_norm_eps": section["rms_norm_eps"],
        "rope_theta": float(
            rope.get("rope_theta") or section.get("rope_theta") or section["rope_parameters"]["rope_theta"]
        ),
        "max_positions": section["max_position_embeddings"],
    }


def rope_entries(section: Mapping[str, Any]) -> Mapping[str, Any]:
    """What says how positions rotate, under transformers' older or newer name; may be empty."""
    return section.get("rope_scaling") or section.get("rope_parameters") or {}


def decoder_rules(info: ModelInfo) -> tuple[Rule, ...]:
    """The rules of embedding, layers, final norm and head, in the order of the forward pass."""
    embedding = HfTensor(EMBEDDING, (info.vocab_size, info.hidden_size))
    head = embedding if info.tied else HfTensor("lm_head.weight", embedding.shape)
    return (
        Rule("language_model.embedding.word_embeddings.weight", (embedding,), tp_dim=0),
        *(rule for layer in range(info.num_layers) for rule in _layer(info, layer)),
        replicated("language_model.decoder.final_layernorm.weight", "model.norm.weight", (info.hidden_size,)),
        # Tied, this exists only on the last of several stages, as a copy that Megatron allocates zero-filled.
        Rule("language_model.output_layer.weight", (head,), tp_dim=0, exported=not info.tied),
    )


def _layer(info: ModelInfo, layer: int) -> tuple[Rule, ...]:
    hidden, ffn = info.hidden_size, info.ffn_size
    q_rows, kv_rows = info.num_heads * info.head_dim, info.num_kv_heads * info.head_dim
    ours, theirs = f"language_model.decoder.layers.{layer}.", f"model.layers.{layer}."
    rows = (("q", q_rows), ("k", kv_rows), ("v", kv_rows))

    def qkv(kind: str, *more: int) -> Rule:
        sources = tuple(HfTensor(f"{theirs}self_attn.{p}_proj.{kind}", (size, *more)) for p, size in rows)
        return Rule(f"{ours}self_attention.linear_qkv.{kind}", sources, tp_dim=0, groups=info.num_kv_heads)

    def norm(fused_into: str, local: str, hf_name: str) -> Rule:
        name = f"{ours}{fused_into}.layer_norm_weight"
        return replicated(name, f"{theirs}{hf_name}.weight", (hidden,), alias=f"{ours}{local}.weight")

    def columns(name: str, hf_name: str, size: int) -> Rule:
        return Rule(f"{ours}{name}.weight", (HfTensor(f"{theirs}{hf_name}.weight", (hidden, size)),), tp_dim=1)

    gate_up = tuple(HfTensor(f"{theirs}mlp.{part}_proj.weight", (ffn, hidden)) for part in ("gate", "up"))
    return (
        norm("self_attention.linear_qkv", "input_layernorm", "input_layernorm"),
        qkv("weight", hidden),
        qkv("bias"),
        columns("self_attention.linear_proj", "self_attn.o_proj", q_rows),
        norm("mlp.linear_fc1", "pre_mlp_layernorm", "post_attention_layernorm"),
        Rule(f"{ours}mlp.linear_fc1.weight", gate_up, tp_dim=0),
        columns("mlp.linear_fc2", "mlp.down_proj", ffn),
    )
