"""Core attention over segments of a packed row: the one attention primitive of the project.

Legend: t tokens of the row, h query heads, g key-value heads, d head size.

Plain packing, a group's prompt that stands once for all its responses, and (later) context parallelism with gathered
keys differ only in the segments. A segment's mask is causal and aligned bottom-right, which is also flash-attention's
varlen convention, so on CUDA the whole row is one kernel call where flash-attention is installed.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_eureka.types import Segment


@dataclass
class PackedRow(PackedSeqParams):
    """Carries a row's segments through Megatron-Core's layers down to the core attention."""

    qkv_format: str = "sbhd"  # Megatron-Core must not reshape: the row is a batch of one
    queries: tuple[int, ...] = ()  # lengths of the segments
    pieces: tuple[int, ...] = ()  # lengths of the pieces that keys are cut into, so that a key range is some in a row
    keys: tuple[tuple[int, ...], ...] = ()  # for each segment the pieces that it sees, in order
    masks: tuple[torch.Tensor | None, ...] = ()  # one a segment, shared by all layers; None: plain causal
    flash: FlashIndex | None = None  # instead of masks, where flash-attention runs


@dataclass(frozen=True)
class FlashIndex:
    """The segments as flash-attention's varlen call takes them."""

    key_index: torch.Tensor  # [keys of all segments] int64, rows of the packed stream
    cu_queries: torch.Tensor  # [segments + 1] int32
    cu_keys: torch.Tensor  # [segments + 1] int32
    max_queries: int
    max_keys: int


@functools.cache
def flash_attention():
    """flash-attention's varlen function, or None where it is not installed."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func


def flash_index(segments: tuple[Segment, ...], device: torch.device) -> FlashIndex:
    """Lay the segments out for a varlen call."""
    queries = [segment.end - segment.start for segment in segments]
    keys = [segment.num_keys for segment in segments]
    index = torch.cat([torch.arange(start, end) for segment in segments for start, end in segment.key_ranges])

    def cumulative(sizes):
        return F.pad(torch.tensor(sizes).cumsum(0), (1, 0)).to(device=device, dtype=torch.int32)

    return FlashIndex(index.to(device), cumulative(queries), cumulative(keys), max(queries), max(keys))


def packed_row(segments: tuple[Segment, ...], device: torch.device, dtype: torch.dtype) -> PackedRow:
    """The per-row argument of the decoder, with what all layers share: the varlen index, or the segments' masks."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and flash_attention() is not None:
        return PackedRow(flash=flash_index(segments, device))
    ranges = [pair for segment in segments for pair in segment.key_ranges]
    cuts = sorted({0, segments[-1].end, *(bound for pair in ranges for bound in pair)})
    number = {bound: index for index, bound in enumerate(cuts)}

    def between(start, end):
        return range(number[start], number[end])

    return PackedRow(
        queries=tuple(segment.end - segment.start for segment in segments),
        pieces=tuple(end - start for start, end in itertools.pairwise(cuts)),
        keys=tuple(tuple(p for pair in segment.key_ranges for p in between(*pair)) for segment in segments),
        masks=tuple(_bottom_right(segment, device) for segment in segments),
    )


class SegmentAttention(MegatronModule):
    """Scaled dot-product attention of every segment's queries over its keys; goes into a layer spec.

    Raises:
        ValueError: attention dropout or context parallelism is asked for, which it does not have.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection=None,
    ):
        super().__init__(config=config)
        if attention_dropout or config.attention_dropout:
            raise ValueError(
                f"Attention dropout is {config.attention_dropout}; segment attention has none. Set it to 0."
            )
        if config.context_parallel_size > 1:
            raise ValueError("Segment attention does not run under context parallelism yet. Set parallel.cp to 1.")
        self.scale = softmax_scale if softmax_scale is not None else config.kv_channels**-0.5

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedRow | None = None,
    ) -> torch.Tensor:
        """query [t, 1, h, d], key and value [t, 1, g, d] -> [t, 1, h * d]. `attention_mask` is not looked at."""
        assert isinstance(packed_seq_params, PackedRow), "segment attention needs the row's segments"
        query, key, value = query.squeeze(1), key.squeeze(1), value.squeeze(1)
        if packed_seq_params.flash is not None:
            out = self._flash(query, key, value, packed_seq_params.flash)
        else:
            out = self._by_segment(query, key, value, packed_seq_params)
        return out.reshape(out.shape[0], 1, -1)

    def _flash(self, query, key, value, index: FlashIndex) -> torch.Tensor:
        return flash_attention()(
            query,
            key[index.key_index],
            value[index.key_index],
            cu_seqlens_q=index.cu_queries,
            cu_seqlens_k=index.cu_keys,
            max_seqlen_q=index.max_queries,
            max_seqlen_k=index.max_keys,
            softmax_scale=self.scale,
            causal=True,
        )

    def _by_segment(self, query, key, value, row: PackedRow) -> torch.Tensor:
        def batch(x):
            return x.transpose(0, 1).unsqueeze(0)  # [t, h, d] -> [1, h, t, d]

        # One cut for all segments: the gradient of a slice is a tensor of the whole row, that of the cut is made once.
        queries, keys, values = query.split(row.queries), key.split(row.pieces), value.split(row.pieces)
        outputs = []
        for part, seen, mask in zip(queries, row.keys, row.masks, strict=True):
            out = F.scaled_dot_product_attention(
                batch(part),
                batch(_joined(keys, seen)),
                batch(_joined(values, seen)),
                attn_mask=mask,
                is_causal=mask is None,
                scale=self.scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            outputs.append(out.squeeze(0).transpose(0, 1))
        return torch.cat(outputs)


def _joined(pieces: tuple[torch.Tensor, ...], numbers: tuple[int, ...]) -> torch.Tensor:
    return pieces[numbers[0]] if len(numbers) == 1 else torch.cat([pieces[number] for number in numbers])


def _bottom_right(segment: Segment, device: torch.device) -> torch.Tensor | None:
    """[queries, keys] bool; None where there are as many keys as queries, which the kernels know as causal."""
    num_queries, num_keys = segment.end - segment.start, segment.num_keys
    if num_queries == num_keys:
        return None
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)
