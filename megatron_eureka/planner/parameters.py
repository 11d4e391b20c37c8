"""Numbers of parameters: of a layer, of the vision tower, of a rank's part, of the whole model."""

from __future__ import annotations

from megatron_eureka.config.model_info import ModelInfo


def layer_parameters(info: ModelInfo) -> int:
    """Parameters of one decoder layer."""
    queries, keys = info.num_heads * info.head_dim, info.num_kv_heads * info.head_dim
    attention = info.hidden_size * (queries + 2 * keys) + queries + 2 * keys + queries * info.hidden_size
    return attention + 3 * info.hidden_size * info.ffn_size + 2 * info.hidden_size


def vision_parameters(info: ModelInfo) -> int:
    """Parameters of the vision tower and its merger."""
    vision = info.vision
    if vision is None:
        return 0
    hidden, ffn = vision.hidden_size, vision.ffn_size
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * hidden
    block = 4 * hidden * hidden + 4 * hidden + 3 * hidden * ffn + 2 * ffn + hidden + 2 * hidden
    merged = hidden * vision.spatial_merge_size**2
    merger = hidden + merged * merged + merged + merged * vision.out_hidden_size + vision.out_hidden_size
    return patch + vision.depth * block + merger


def total_parameters(info: ModelInfo) -> int:
    """Parameters of the whole model; a tied head counts once."""
    embedding = info.vocab_size * info.hidden_size
    head = 0 if info.tied else embedding
    return vision_parameters(info) + embedding + info.num_layers * layer_parameters(info) + info.hidden_size + head


def stage_parameters(info: ModelInfo, tp: int, pp: int, stage: int) -> tuple[int, int]:
    """Parameters of one rank in a pipeline stage: (language model, vision tower).

    Norms are not cut over tp in truth; they are 1 in 10,000 of a layer and count as if they were. The tower lies whole
    on every rank of the first stage. The last stage of a tied model keeps a copy of the embedding.
    """
    embedding = info.vocab_size * info.hidden_size
    count = info.num_layers // pp * layer_parameters(info)
    if stage == 0:
        count += embedding
    if stage == pp - 1:
        count += info.hidden_size + (0 if info.tied and pp == 1 else embedding)
    return count // tp, vision_parameters(info) if stage == 0 else 0
