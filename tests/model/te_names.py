"""A layer spec for the CPU with Transformer Engine's names and Transformer Engine's ways with `_extra_state`.

Transformer Engine needs CUDA. What of it shows in a checkpoint is that each norm lies inside the linear behind it, and
that every linear and the final norm have an `_extra_state` (transformer_engine.pytorch.module.base, version 2.x: an
empty uint8 tensor without FP8; None or an empty tensor sets nothing; other types are refused).
"""

import pickle

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build

from megatron_eureka.model import chunk
from megatron_eureka.model.attention import SegmentAttention
from megatron_eureka.model.norm import RMSNorm


class ExtraState:
    """Transformer Engine's extra state of a module that does not run in FP8."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor | None) -> None:
        if state is None:
            return
        if not isinstance(state, torch.Tensor):
            raise RuntimeError("Unsupported checkpoint format.")
        if state.numel():
            pickle.loads(state.numpy().tobytes())

    def load_state_dict_strictly(self) -> None:
        """Take back Megatron-Core's leave to miss the extra state: Transformer Engine's modules give none."""
        self._load_state_dict_pre_hooks.clear()


class LayerNormColumnParallelLinear(ExtraState, ColumnParallelLinear):
    """RMSNorm and linear in one module."""

    def __init__(self, input_size, output_size, *, config, **options):
        super().__init__(input_size, output_size, config=config, **options)
        self.load_state_dict_strictly()
        self.layer_norm_weight = torch.nn.Parameter(torch.ones(input_size, dtype=config.params_dtype))
        self.layer_norm_weight.sequence_parallel = config.sequence_parallel

    def forward(self, hidden, *arguments, **options):
        normed = F.rms_norm(hidden, (self.input_size,), self.layer_norm_weight, self.config.layernorm_epsilon)
        return super().forward(normed, *arguments, **options)


class RowLinear(ExtraState, RowParallelLinear):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.load_state_dict_strictly()


class Norm(ExtraState, RMSNorm):
    """The final one."""


def block_spec(config, transformer_engine, vp_stage):
    """In place of `megatron_eureka.model.spec.block_spec`."""
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    parts = layer.submodules
    parts.input_layernorm = parts.pre_mlp_layernorm = IdentityOp
    parts.sharded_state_dict_keys_map = {}
    attention, mlp = parts.self_attention.submodules, parts.mlp.submodules
    attention.linear_qkv = mlp.linear_fc1 = LayerNormColumnParallelLinear
    attention.linear_proj = mlp.linear_fc2 = RowLinear
    attention.core_attention = ModuleSpec(module=SegmentAttention)
    num_layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=Norm)


def use(monkeypatch) -> None:
    """Build models with this spec; ranks that are forked afterwards do too."""
    monkeypatch.setattr(chunk, "block_spec", block_spec)
