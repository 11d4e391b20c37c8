"""The weights of Qwen2.5-VL: the tower's, under `visual.*`, and the decoder's."""

from __future__ import annotations

from megatron_eureka.config.model_info import ModelInfo, VisionInfo
from megatron_eureka.families.decoder import decoder_rules
from megatron_eureka.families.rules import VISUAL, Rule, replicated


def rules(info: ModelInfo) -> tuple[Rule, ...]:
    """All rules of a model, in the order of the forward pass."""
    return (*_tower(info.vision), *decoder_rules(info))


def _tower(vision: VisionInfo) -> tuple[Rule, ...]:
    """The tower is transformers' own module, replicated: every name maps to itself."""
    hidden, ffn = vision.hidden_size, vision.ffn_size
    merged = hidden * vision.spatial_merge_size**2
    patch = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    block = {"norm1.weight": (hidden,), "norm2.weight": (hidden,)}
    for name, rows, columns in (
        ("attn.qkv", 3 * hidden, hidden),
        ("attn.proj", hidden, hidden),
        ("mlp.gate_proj", ffn, hidden),
        ("mlp.up_proj", ffn, hidden),
        ("mlp.down_proj", hidden, ffn),
    ):
        block |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    shapes = {"patch_embed.proj.weight": (hidden, *patch)}
    shapes |= {f"blocks.{index}.{name}": shape for index in range(vision.depth) for name, shape in block.items()}
    shapes |= {
        "merger.ln_q.weight": (hidden,),
        "merger.mlp.0.weight": (merged, merged),
        "merger.mlp.0.bias": (merged,),
        "merger.mlp.2.weight": (vision.out_hidden_size, merged),
        "merger.mlp.2.bias": (vision.out_hidden_size,),
    }
    return tuple(replicated(f"{VISUAL}{name}", f"{VISUAL}{name}", shape, vision=True) for name, shape in shapes.items())
