"""Floating-point operations of training passes, and what share of the hardware's peak they are.

Counted as the field counts them (Megatron-LM's formula; PaLM, appendix B): matrix products only, two operations a
multiply-add, the head once, the embedding look-up not at all, a backward pass as two forward passes.
"""

from __future__ import annotations

from collections.abc import Iterable

from megatron_eureka.config.model_info import ModelInfo, VisionInfo
from megatron_eureka.types import MicroBatch

# Dense BF16 peaks of single GPUs in FLOP/s, from their data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12}


def language_model_flops(info: ModelInfo, num_tokens: int, num_targets: int, attention_pairs: float) -> float:
    """One forward pass of the decoder over tokens, and of the head over those whose successor is wanted.

    Args:
        attention_pairs: query-key pairs that the masks let through, over all tokens.
    """
    queries, keys = info.num_heads * info.head_dim, info.num_kv_heads * info.head_dim
    layer = info.hidden_size * (2 * queries + 2 * keys) + 3 * info.hidden_size * info.ffn_size
    matrices = 2.0 * num_tokens * info.num_layers * layer + 2.0 * num_targets * info.hidden_size * info.vocab_size
    return matrices + info.num_layers * attention_pairs * 4.0 * queries


def flops_of_rows(info: ModelInfo, rows: Iterable[MicroBatch]) -> float:
    """`language_model_flops` of packed rows; padding is left out."""
    rows = list(rows)
    tokens, targets = sum(row.num_tokens for row in rows), sum(len(row.targets) for row in rows)
    return language_model_flops(info, tokens, targets, sum(map(_attention_pairs, rows)))


def _attention_pairs(row: MicroBatch) -> float:
    """Pairs under a row's causal, bottom-right masks."""
    pairs = 0.0
    for segment in row.segments:
        if segment.start < row.num_tokens:
            queries = segment.end - segment.start
            pairs += queries * (segment.num_keys - queries) + queries * (queries + 1) / 2
    return pairs


def tower_flops(vision: VisionInfo | None, num_patches: int) -> float:
    """One forward pass of the vision tower and its merger; attention inside windows is small and left out."""
    if vision is None:
        return 0.0
    hidden, merged = vision.hidden_size, vision.hidden_size * vision.spatial_merge_size**2
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * hidden
    block = 4 * hidden * hidden + 3 * hidden * vision.ffn_size
    merger = merged * (merged + vision.out_hidden_size) / vision.spatial_merge_size**2
    return 2.0 * num_patches * (patch + vision.depth * block + merger)


def peak_flops(gpu: str) -> float | None:
    """Peak of a GPU by the name that CUDA gives it, dense BF16, FLOP/s; None for one that is not in the table."""
    return next((peak for key, peak in PEAKS.items() if key in gpu), None)
