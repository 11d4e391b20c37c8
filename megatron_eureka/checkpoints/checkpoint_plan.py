"""The plan of a Megatron checkpoint: which bytes of which Hugging Face tensors lie where. Pure arithmetic.

The files follow a layout: each tensor-parallel rank of each pipeline stage has one, and in it the boxes that it will
read, in the order of the forward pass. Nothing else depends on the layout: any other one loads the same checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from megatron_eureka.checkpoints.files import Extent
from megatron_eureka.checkpoints.stored import (
    Stored,
    adjacent_cuts,
    extra_state_keys,
    pipeline_stage,
    stored_cuts,
    stored_rules,
    stored_tensor,
)
from megatron_eureka.checkpoints.torch_dist import StoredBox, empty_object
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.weights.cuts import Cut
from megatron_eureka.weights.table import Rule, hf_tensors

MAX_BOX_BYTES = 16 << 20  # a rank that reads a box holds all of it in memory


@dataclass(frozen=True)
class Transfer:
    """Cuts of Hugging Face tensors, one after another, and the boxes that they fill."""

    cuts: tuple[Cut, ...]  # along dim 0
    boxes: tuple[StoredBox, ...]  # one; of a matrix cut along its columns, one for each tensor-parallel rank


@dataclass(frozen=True)
class CheckpointPlan:
    """All that a conversion writes."""

    transfers: tuple[tuple[Transfer, ...], ...]  # of each rule
    shapes: Mapping[str, tuple[int, ...]]  # of the stored tensors, by key
    objects: Mapping[str, Extent]  # of what is no tensor, by key; files as names
    file_bytes: Mapping[str, int]

    @property
    def boxes(self) -> list[StoredBox]:
        return [box for rule in self.transfers for transfer in rule for box in transfer.boxes]

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
    max_box_bytes: int = MAX_BOX_BYTES,
) -> CheckpointPlan:
    """Lay out a checkpoint.

    Args:
        info: sizes of the model.
        dtypes: to be stored, by the name of the Megatron parameter.
        tp, pp, vpp: the layout whose ranks shall read contiguous bytes; the caller has checked that it is legal.
        max_box_bytes: no box is larger, but for single rows.
    """
    filled: dict[str, int] = defaultdict(int)
    transfers, shapes = [], {}
    for rule in stored_rules(info):
        stored = stored_tensor(rule)
        shapes[stored.key] = stored.full_shape(info.num_layers)
        stage = pipeline_stage(rule, info.num_layers, pp, vpp)
        files = [f"__{tp_rank + tp * stage}_0.distcp" for tp_rank in range(tp)]
        of_rule = []
        for cuts, boxes in _boxes(rule, stored, tp, dtypes[rule.name].itemsize, max_box_bytes):
            filling = []
            for tp_rank, starts, sizes in boxes:
                starts, sizes = stored.stacked(starts, stored.layer or 0), stored.stacked(sizes, 1)
                file = files[tp_rank]
                box = StoredBox(stored.key, starts, sizes, dtypes[rule.name], file, filled[file])
                filled[file] += box.frame.size
                filling.append(box)
            of_rule.append(Transfer(cuts, tuple(filling)))
        transfers.append(tuple(of_rule))
    used = {source.name for rule in stored_rules(info) for source in rule.sources}
    assert used == hf_tensors(info).keys(), f"no rule stores {sorted(hf_tensors(info).keys() - used)}"
    last = max(filled)
    extent = Extent(Path(last), filled[last], len(empty_object()))
    filled[last] += extent.num_bytes
    objects = dict.fromkeys(extra_state_keys(info.num_layers), extent)  # they are all the same: one is enough
    return CheckpointPlan(tuple(transfers), shapes, objects, dict(filled))


def _boxes(
    rule: Rule, stored: Stored, tp: int, itemsize: int, max_bytes: int
) -> Iterator[tuple[tuple[Cut, ...], list[tuple[int, tuple[int, ...], tuple[int, ...]]]]]:
    """Cuts to read and, of each tensor-parallel rank concerned, rank, starts and sizes of the box that they fill."""
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
        for together in adjacent_cuts(rule, tp_rank, tp):
            begin, end = together[0].offset, together[-1].offset + together[-1].size
            for first in range(begin, end, step):
                rows = min(step, end - first)
                box = (tp_rank, (first, *(0 for _ in more)), (rows, *more))
                yield tuple(_clip(together, first, first + rows)), [box]


def _clip(cuts: Sequence[Cut], first: int, last: int) -> Iterator[Cut]:
    """What of the cuts lies in rows `first` to `last` of the stored tensor."""
    for cut in cuts:
        start, end = max(first, cut.offset), min(last, cut.offset + cut.size)
        if start < end:
            yield replace(cut, start=cut.start + start - cut.offset, size=end - start, offset=start)
