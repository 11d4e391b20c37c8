"""Sizes of a Qwen2.5-VL model, read from its config.json without transformers or torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from megatron_eureka.config.model_folder import find_model_folder
from megatron_eureka.config.unsupported import unsupported

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
_NO_SIZES = ("rms_norm_eps", "rope_theta", "mrope_section", "tied", "vision")


@dataclass(frozen=True)
class VisionInfo:
    """The vision tower's sizes."""

    depth: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    out_hidden_size: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    in_channels: int


@dataclass(frozen=True)
class ModelInfo:
    """What layouts, memory estimates and the weight table need to know of a model."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    tied: bool  # the head is the embedding
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    max_positions: int
    image_token_id: int
    vision_start_token_id: int
    vision: VisionInfo

    @classmethod
    def from_folder(cls, path: str | Path) -> ModelInfo:
        """Read the `config.json` of a Hugging Face folder or of a Megatron checkpoint.

        Raises:
            ValueError: the folder or the file is missing, is not JSON, or describes another architecture.
        """
        file = find_model_folder(path).hf / "config.json"
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not valid JSON: {error}") from error
        return cls.from_hf_config(raw, origin=str(file))

    @classmethod
    def from_hf_config(cls, raw: dict, origin: str = "config") -> ModelInfo:
        """Build from the parsed config.json, in its older flat form or with a `text_config` section.

        Raises:
            ValueError: it describes another architecture, lacks a size, or asks for what the trainer does not compute.
        """
        kind = raw.get("model_type") if isinstance(raw, dict) else None
        if kind != "qwen2_5_vl":
            raise ValueError(f"{origin}: model_type is {kind!r}, expected 'qwen2_5_vl'.")
        try:
            refused = [f"{origin}: {sentence}" for sentence in unsupported(raw)]
            info = None if refused else cls._read(raw)
        except KeyError as error:
            raise ValueError(f"{origin}: {error.args[0]!r} is missing.") from error
        except (TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
            raise ValueError(f"{origin}: an entry is no size of a model: {error}.") from error
        if info is None:
            raise ValueError("\n".join(refused))
        for name, value in (vars(info) | vars(info.vision)).items():
            if name not in _NO_SIZES and (type(value) is not int or value < 0):
                raise ValueError(f"{origin}: an entry is no size of a model: {name} is {value!r}.")
        return info

    @classmethod
    def _read(cls, raw: dict) -> ModelInfo:
        text, vision = raw.get("text_config") or raw, VISION_DEFAULTS | raw["vision_config"]
        rope, top = text.get("rope_scaling") or text.get("rope_parameters") or {}, CLASS_DEFAULTS | raw
        return cls(
            hidden_size=text["hidden_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=text["num_attention_heads"],
            num_kv_heads=text["num_key_value_heads"],
            head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            ffn_size=text["intermediate_size"],
            vocab_size=text["vocab_size"],
            tied=bool(raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
            rms_norm_eps=text["rms_norm_eps"],
            rope_theta=float(rope.get("rope_theta") or text.get("rope_theta") or text["rope_parameters"]["rope_theta"]),
            mrope_section=tuple(rope["mrope_section"]),
            max_positions=text["max_position_embeddings"],
            image_token_id=top["image_token_id"],
            vision_start_token_id=top["vision_start_token_id"],
            vision=VisionInfo(
                depth=vision["depth"],
                hidden_size=vision["hidden_size"],
                ffn_size=vision["intermediate_size"],
                num_heads=vision["num_heads"],
                out_hidden_size=vision["out_hidden_size"],
                patch_size=vision["patch_size"],
                temporal_patch_size=vision["temporal_patch_size"],
                spatial_merge_size=vision["spatial_merge_size"],
                in_channels=vision["in_channels"],
            ),
        )
