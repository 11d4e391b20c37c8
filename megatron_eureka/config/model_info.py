"""Sizes of a model, whatever its family: what layouts, memory estimates and the weight table need to know."""

from __future__ import annotations

from dataclasses import dataclass


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
    """The decoder's sizes and, of a model that sees, the tower's. `families` reads them from a config.json."""

    family: str  # `model_type` in config.json
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
    mrope_section: tuple[int, int, int]  # rotary frequencies that follow time, height and width
    max_positions: int
    image_token_id: int | None = None  # the placeholder of a visual token; None: a model of text alone
    vision_start_token_id: int | None = None
    vision: VisionInfo | None = None
