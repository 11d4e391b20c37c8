"""Sizes in the config.json of a Qwen2.5-VL model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_eureka.config.model_info import ModelInfo, VisionInfo
from megatron_eureka.families.decoder import decoder_sizes, rope_entries

# Of Qwen2_5_VLConfig and its vision_config in transformers, the same in every release from 4.49 on. That release leaves
# out of vision_config what equals them; the language model's sizes every release writes, so there a gap is damage.
CLASS_DEFAULTS = {"image_token_id": 151655, "vision_start_token_id": 151652}
VISION_DEFAULTS = {
    "depth": 32,
    "hidden_size": 3584,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "in_channels": 3,
}


def read(raw: Mapping[str, Any]) -> ModelInfo:
    """Sizes of a parsed config.json, in its older flat form or with a `text_config` section.

    Raises:
        KeyError: an entry is missing.
    """
    text, top = raw.get("text_config") or raw, CLASS_DEFAULTS | raw
    vision = dict(VISION_DEFAULTS | raw["vision_config"])
    vision["ffn_size"] = vision.pop("intermediate_size")
    return ModelInfo(
        family="qwen2_5_vl",
        **decoder_sizes(text),
        tied=bool(raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        mrope_section=tuple(rope_entries(text)["mrope_section"]),
        image_token_id=top["image_token_id"],
        vision_start_token_id=top["vision_start_token_id"],
        vision=VisionInfo(**{name: vision[name] for name in VisionInfo.__dataclass_fields__}),
    )
