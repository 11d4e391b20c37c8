"""From a model's sizes and a run's options to Megatron-Core's TransformerConfig and layer spec."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Parallel, Precision
from megatron_eureka.model.attention import SegmentAttention
from megatron_eureka.model.norm import RMSNorm

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def uses_transformer_engine(choice: str) -> bool:
    """Whether `model.spec` means Transformer Engine's layers on this machine.

    Raises:
        ValueError: they are asked for and cannot run here.
    """
    if choice == "local":
        return False
    try:
        import transformer_engine.pytorch  # noqa: F401

        missing = None if torch.cuda.is_available() else "there is no CUDA device"
    except ImportError:
        missing = "transformer-engine is not installed"
    if missing and choice == "te":
        raise ValueError(f"model.spec is 'te', but {missing}. Install the `gpu` extra on a GPU machine, or use 'auto'.")
    return missing is None


def transformer_config(info: ModelInfo, parallel: Parallel, precision: Precision) -> TransformerConfig:
    """Megatron-Core's view of the language model under this run's layout and precision."""
    dtype = DTYPES[precision.dtype]
    recompute = {}
    if parallel.recompute == "full":
        recompute = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return TransformerConfig(
        num_layers=info.num_layers,
        hidden_size=info.hidden_size,
        num_attention_heads=info.num_heads,
        num_query_groups=info.num_kv_heads,
        kv_channels=info.head_dim,
        ffn_hidden_size=info.ffn_size,
        normalization="RMSNorm",
        layernorm_epsilon=info.rms_norm_eps,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=True,
        mrope_section=list(info.mrope_section),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        attention_softmax_in_fp32=True,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        tensor_model_parallel_size=parallel.tp,
        pipeline_model_parallel_size=parallel.pp,
        virtual_pipeline_model_parallel_size=parallel.vpp if parallel.vpp > 1 else None,
        context_parallel_size=parallel.cp,
        sequence_parallel=parallel.sequence_parallel,
        # Every weight is loaded afterwards, but only initialisation marks which parameters are cut over TP: without it
        # the gradient norm counts one shard of each, silently.
        perform_initialization=True,
        # With interleaved stages, batched sends and receives pair up wrongly and train on wrong activations, silently.
        batch_p2p_comm=False,
        # The losses come with their global denominators, so gradients are summed, never averaged.
        calculate_per_token_loss=True,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        **recompute,
    )


def block_spec(config: TransformerConfig, transformer_engine: bool, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The decoder of one model chunk: Transformer Engine's or Megatron-Core's own layers, with our core attention."""
    if transformer_engine:
        from megatron.core.extensions.transformer_engine import TENorm

        layer, norm = get_gpt_layer_with_transformer_engine_spec(), TENorm
    else:
        layer, norm = get_gpt_layer_local_spec(normalization="RMSNorm"), RMSNorm
        layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    layer.submodules.self_attention.submodules.core_attention = ModuleSpec(module=SegmentAttention)
    num_layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=norm)
