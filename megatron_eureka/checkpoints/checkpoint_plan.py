"""The plan of a Megatron checkpoint: which bytes of which Hugging Face tensors lie where. Pure arithmetic.

The files follow a layout: each tensor-parallel rank of each pipeline stage has one, and in it the ranges that it will
read, in the order of the forward pass. Nothing else depends on the layout: any other one loads the same checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from megatron_eureka.checkpoints.stored import (
    Stored,
    extra_state_keys,
    pipeline_stage,
    regions,
    stored_cuts,
    stored_rules,
    stored_tensor,
)
from megatron_eureka.checkpoints.torch_dist import StoredChunk, empty_object
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.weights.layout import Cut
from megatron_eureka.weights.table import Rule, hf_tensors

MAX_CHUNK_BYTES = 16 << 20  # a rank that reads a chunk holds all of it in memory


@dataclass(frozen=True)
class Transfer:
    """Rows of Hugging Face tensors, one range after another, and the chunks that they fill."""

    rows: tuple[Cut, ...]  # along dim 0
    chunks: tuple[StoredChunk, ...]  # one; of a matrix cut along its columns, one for each tensor-parallel rank


@dataclass(frozen=True)
class CheckpointPlan:
    """All that a conversion writes."""

    transfers: tuple[tuple[Transfer, ...], ...]  # of each rule
    shapes: Mapping[str, tuple[int, ...]]  # of the stored tensors, by key
    objects: Mapping[str, tuple[str, int, int]]  # file, position and bytes of what is no tensor, by key
    file_bytes: Mapping[str, int]

    @property
    def chunks(self) -> list[StoredChunk]:
        return [chunk for rule in self.transfers for transfer in rule for chunk in transfer.chunks]

    @property
    def num_bytes(self) -> int:
        return sum(self.file_bytes.values())


def plan_checkpoint(
    info: ModelInfo,
    dtypes: Mapping[str, torch.dtype],
    *,
    tp: int = 1,
    pp: int = 1,
    vpp: int = 1,
    max_chunk_bytes: int = MAX_CHUNK_BYTES,
) -> CheckpointPlan:
    """Lay out a checkpoint.

    Args:
        info: sizes of the model.
        dtypes: to be stored, by the name of the Megatron parameter.
        tp, pp, vpp: the layout whose ranks shall read contiguous bytes; the caller has checked that it is legal.
        max_chunk_bytes: no chunk is larger, but for single rows.
    """
    filled: dict[str, int] = defaultdict(int)
    transfers, shapes = [], {}
    for rule in stored_rules(info):
        stored = stored_tensor(rule)
        shapes[stored.key] = stored.full_shape(info.num_layers)
        stage = pipeline_stage(rule, info.num_layers, pp, vpp)
        files = [f"__{tp_rank + tp * stage}_0.distcp" for tp_rank in range(tp)]
        placed = []
        for rows, boxes in _boxes(rule, stored, tp, dtypes[rule.name].itemsize, max_chunk_bytes):
            chunks = []
            for tp_rank, starts, sizes in boxes:
                offsets, lengths = stored.stacked(starts, stored.layer or 0), stored.stacked(sizes, 1)
                file = files[tp_rank]
                chunk = StoredChunk(stored.key, offsets, lengths, dtypes[rule.name], file, filled[file])
                filled[file] += chunk.frame.size
                chunks.append(chunk)
            placed.append(Transfer(rows, tuple(chunks)))
        transfers.append(tuple(placed))
    used = {source.name for rule in stored_rules(info) for source in rule.sources}
    assert used == hf_tensors(info).keys(), f"no rule stores {sorted(hf_tensors(info).keys() - used)}"
    last = max(filled)
    place = (last, filled[last], len(empty_object()))
    filled[last] += place[2]
    objects = dict.fromkeys(extra_state_keys(info.num_layers), place)  # they are all the same: one is enough
    return CheckpointPlan(tuple(transfers), shapes, objects, dict(filled))


def _boxes(
    rule: Rule, stored: Stored, tp: int, itemsize: int, max_bytes: int
) -> Iterator[tuple[tuple[Cut, ...], list[tuple[int, tuple[int, ...], tuple[int, ...]]]]]:
    """Rows to read and, of each tensor-parallel rank concerned, rank, starts and sizes of the box that they fill."""
    step = max(1, max_bytes // (torch.Size(stored.shape[1:]).numel() * itemsize))
    if rule.tp_dim == 1:
        columns = [stored_cuts(rule, tp_rank, tp)[0] for tp_rank in range(tp)]
        for first in range(0, stored.shape[0], step):
            rows = min(step, stored.shape[0] - first)
            boxes = [(tp_rank, (first, cut.offset), (rows, cut.size)) for tp_rank, cut in enumerate(columns)]
            yield (Cut(rule.sources[0], first, rows, first),), boxes
        return
    more = stored.shape[1:]
    for tp_rank in range(1 if rule.tp_dim is None else tp):
        for region in regions(rule, tp_rank, tp):
            begin, end = region[0].offset, region[-1].offset + region[-1].size
            for first in range(begin, end, step):
                rows = min(step, end - first)
                box = (tp_rank, (first, *(0 for _ in more)), (rows, *more))
                yield tuple(_clip(region, first, first + rows)), [box]


def _clip(region: Sequence[Cut], first: int, last: int) -> Iterator[Cut]:
    """What of a region's cuts lies in rows `first` to `last` of the stored tensor."""
    for cut in region:
        start, end = max(first, cut.offset), min(last, cut.offset + cut.size)
        if start < end:
            yield replace(cut, start=cut.start + start - cut.offset, size=end - start, offset=start)
