"""Sizes of the published Qwen2.5-VL models, so that a plan can be checked before a model is downloaded."""

from __future__ import annotations

from megatron_eureka.config.model_info import ModelInfo, VisionInfo


def _published(
    hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, ffn_size: int, vision_ffn_size: int,
    vocab_size: int = 152064, tied: bool = False,
) -> ModelInfo:  # fmt: skip
    vision = VisionInfo(
        depth=32,
        hidden_size=1280,
        ffn_size=vision_ffn_size,
        num_heads=16,
        out_hidden_size=hidden_size,
        patch_size=14,
        temporal_patch_size=2,
        spatial_merge_size=2,
        in_channels=3,
    )
    return ModelInfo(
        family="qwen2_5_vl",
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=128,
        ffn_size=ffn_size,
        vocab_size=vocab_size,
        tied=tied,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        mrope_section=(16, 24, 24),
        max_positions=128000,
        image_token_id=151655,
        vision_start_token_id=151652,
        vision=vision,
    )


# From the config.json files of the Hugging Face hub.
PUBLISHED: dict[str, ModelInfo] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _published(2048, 36, 16, 2, 11008, 3420, vocab_size=151936, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": _published(3584, 28, 28, 4, 18944, 3420),
    "Qwen/Qwen2.5-VL-32B-Instruct": _published(5120, 64, 40, 8, 27648, 3456),
    "Qwen/Qwen2.5-VL-72B-Instruct": _published(8192, 80, 64, 8, 29568, 3456),
}
