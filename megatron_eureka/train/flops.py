"""Floating-point operations of training passes, and what share of the hardware's peak they are.

Counted as the field counts them (Megatron-LM's formula; PaLM, appendix B): matrix products only, two operations a
multiply-add, the head once, the embedding look-up not at all, a backward pass as two forward passes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from megatron_eureka.config.model_info import ModelInfo, VisionInfo
from megatron_eureka.types import MicroBatch

# Dense BF16 peaks of single GPUs in FLOP/s, from their data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12}


def language_model_flops(info: ModelInfo, rows: Iterable[MicroBatch]) -> float:
    """One forward pass of the decoder over rows, and of the head over their targets."""
    rows = list(rows)
    tokens, targets = sum(row.num_tokens for row in rows), sum(len(row.targets) for row in rows)
    queries, keys = info.num_heads * info.head_dim, info.num_kv_heads * info.head_dim
    layer = info.hidden_size * (2 * queries + 2 * keys) + 3 * info.hidden_size * info.ffn_size
    matrices = 2.0 * tokens * info.num_layers * layer + 2.0 * targets * info.hidden_size * info.vocab_size
    return matrices + info.num_layers * sum(_attention_pairs(row) for row in rows) * 4.0 * queries


def _attention_pairs(row: MicroBatch) -> float:
    """Query-key pairs that a row's causal, bottom-right masks let through; padding is left out."""
    pairs = 0.0
    for segment in row.segments:
        if segment.start < row.num_tokens:
            queries = segment.end - segment.start
            pairs += queries * (segment.num_keys - queries) + queries * (queries + 1) / 2
    return pairs


def tower_flops(vision: VisionInfo, num_patches: int) -> float:
    """One forward pass of the vision tower and its merger; attention inside windows is small and left out."""
    hidden, merged = vision.hidden_size, vision.hidden_size * vision.spatial_merge_size**2
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * hidden
    block = 4 * hidden * hidden + 3 * hidden * vision.ffn_size
    merger = merged * (merged + vision.out_hidden_size) / vision.spatial_merge_size**2
    return 2.0 * num_patches * (patch + vision.depth * block + merger)


def peak_flops() -> float | None:
    """Peak of this rank's GPU; None on a CPU or a GPU that is not in the table."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for key, peak in PEAKS.items() if key in name), None)
