"""From a Hugging Face folder to a Megatron checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from isal.isal_zlib import crc32

from megatron_eureka.checkpoints.checkpoint_plan import CheckpointPlan, Transfer, plan_checkpoint
from megatron_eureka.checkpoints.companions import describe, warn_of_companions
from megatron_eureka.checkpoints.conversion import Conversion, clear_errors, hash_tensors
from megatron_eureka.checkpoints.files import OpenFiles, write_at
from megatron_eureka.checkpoints.hf_reader import HfReader
from megatron_eureka.checkpoints.keys import check_hf_keys
from megatron_eureka.checkpoints.new_folder import NewFolder, check_apart
from megatron_eureka.checkpoints.stored import stored_rules, stored_tensor
from megatron_eureka.checkpoints.streaming import BLOCK_BYTES, Streamer, default_workers
from megatron_eureka.checkpoints.torch_dist import StoredBox, empty_object, write_index
from megatron_eureka.config.checks import check_model_layout
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.config.schema import Parallel
from megatron_eureka.families.decoder import EMBEDDING
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import ByteProgress
from megatron_eureka.weights.table import hf_tensors


def hf_to_megatron(
    hf: str | Path,
    megatron: str | Path,
    *,
    tp: int = 1,
    pp: int = 1,
    vpp: int = 1,
    dtype: torch.dtype | None = None,
    workers: int | None = None,
    check_finite: bool = True,
    overwrite: bool = False,
    fsync: bool = False,
    dry_run: bool = False,
) -> Conversion:
    """Write a Megatron checkpoint from a Hugging Face folder. Megatron-Core loads it under any layout.

    Args:
        hf: folder with config.json and safetensors, single or sharded, under the older or the newer names.
        megatron: the checkpoint, which appears under this name when it is whole.
        tp, pp, vpp: the layout for which the files are cut: each of its ranks reads one file from end to end.
        dtype: to be stored; by default that of the source.
        workers: threads; by default as many as are worth it.
        check_finite: refuse infinities and NaN in the source, which costs little beside reading it.
        overwrite, fsync: see `NewFolder`.
        dry_run: check and plan all, but write nothing.

    Raises:
        ValueError: the layout is not legal, the source is damaged, incomplete or another model, the target exists, or
            the disk is too small. Nothing is left of the target.
        RuntimeError: the target could not be written.
    """
    hf, megatron = Path(hf), Path(megatron)
    model = ModelSource.open(hf)
    info = model.info
    check_model_layout(Parallel(tp=tp, pp=pp, vpp=vpp), info)
    check_hf_keys(hf, info)
    check_apart(hf, megatron)
    reader, tensors = HfReader(hf), hf_tensors(info)
    found = {name: reader.dtype(name) for name in tensors}
    stored = dict.fromkeys(tensors, dtype) if dtype else found
    plan = plan_checkpoint(info, _dtypes_of_rules(reader, info, stored), tp=tp, pp=pp, vpp=vpp)
    new = NewFolder(megatron, file_bytes=plan.file_bytes, overwrite=overwrite, fsync=fsync)
    new.check()
    _check_second_head(reader, info)
    warn_of_companions(model)
    if dry_run:
        return Conversion(megatron, len(tensors), plan.file_bytes)
    begin, num_bytes = time.monotonic(), sum(reader.extent(name).num_bytes for name in tensors)
    with clear_errors(megatron), new, ByteProgress(f"{hf.name} to Megatron", num_bytes) as progress:
        streamer = Streamer(workers or default_workers(), progress, check_finite=check_finite)
        _write_boxes(reader, plan, new.path, streamer)
        weights_hash = hash_tensors(tensors, stored, streamer.hashes())
        source_hash = hash_tensors(tensors, found, streamer.hashes(read=True))
        layout = {"tp": tp, "pp": pp, "vpp": vpp}
        describe(new.path, model, layout=layout, dtype=dtype, weights_hash=weights_hash, source_hash=source_hash)
        write_index(new.path, plan.boxes, plan.shapes, plan.objects)
    return Conversion(megatron, len(tensors), plan.file_bytes, time.monotonic() - begin, weights_hash)


def _dtypes_of_rules(reader: HfReader, info: ModelInfo, dtypes: dict[str, torch.dtype]) -> dict[str, torch.dtype]:
    """The dtype of each Megatron parameter; all layers of one share theirs, for they are one tensor."""
    first: dict[str, str] = {}  # a source by key
    result = {}
    for rule in stored_rules(info):
        for source in rule.sources:
            other = first.setdefault(stored_tensor(rule).key, source.name)
            if dtypes[source.name] != dtypes[other]:
                raise ValueError(
                    f"{source.name!r} in {reader.file_of(source.name)} is {dtypes[source.name]}, but {other!r} in "
                    f"{reader.file_of(other)} is {dtypes[other]}, and Megatron stores them as one tensor. Choose one "
                    "dtype for all (--dtype)."
                )
            result[rule.name] = dtypes[source.name]
    return result


def _check_second_head(reader: HfReader, info: ModelInfo) -> None:
    """A tied checkpoint may hold the head a second time, but not another head."""
    head = "lm_head.weight"
    if not info.tied or head not in reader.names:
        return
    extents = [reader.extent(name) for name in (EMBEDDING, head)]
    same, size = len({(extent.shape, extent.dtype) for extent in extents}) == 1, extents[0].num_bytes
    blocks = [bytearray(BLOCK_BYTES), bytearray(BLOCK_BYTES)]
    for start in range(0, size if same else 0, BLOCK_BYTES):
        for name, block in zip((EMBEDDING, head), blocks, strict=True):
            reader.read_bytes(name, start, memoryview(block)[: min(BLOCK_BYTES, size - start)])
        same = same and blocks[0] == blocks[1]
    if not same:
        raise ValueError(
            f"{head!r} in {reader.file_of(head)} differs from {EMBEDDING!r}, though config.json says that they are "
            "tied. Set tie_word_embeddings to false there, or remove the tensor."
        )


def _write_boxes(reader: HfReader, plan: CheckpointPlan, folder: Path, streamer: Streamer) -> None:
    files = OpenFiles(os.O_WRONLY | os.O_CREAT)

    def work(transfers: Sequence[Transfer]) -> None:
        for transfer in transfers:
            _fill(reader, transfer, [_Sink(files, folder, box) for box in transfer.boxes], streamer)

    try:
        streamer.run(plan.transfers, work)
        extent = next(iter(plan.objects.values()))
        write_at(files.descriptor(folder / extent.file), memoryview(empty_object()), extent.offset)
    finally:
        files.close()


def _fill(reader: HfReader, transfer: Transfer, sinks: list[_Sink], streamer: Streamer) -> None:
    dtype = transfer.boxes[0].dtype
    for cut in transfer.cuts:
        name, extent = cut.source.name, reader.extent(cut.source.name)

        def read(row: int, target: memoryview, name: str = name, row_bytes: int = extent.row_bytes) -> None:
            reader.read_bytes(name, row * row_bytes, target)

        rows = range(cut.start, cut.start + cut.size)
        elements = torch.Size(cut.source.shape[1:]).numel()
        for _, data in streamer.blocks(name, rows, elements, (reader.dtype(name), dtype), read, f"in {extent.file}"):
            for sink, columns in zip(sinks, _columns(data, transfer.boxes, elements), strict=True):
                sink.write(columns)
    for sink in sinks:
        sink.finish()


def _columns(data: memoryview, boxes: Sequence[StoredBox], row_elements: int) -> list[memoryview]:
    """Whole rows, cut along their columns as the boxes are."""
    if len(boxes) == 1:
        return [data]
    itemsize = boxes[0].dtype.itemsize
    table = torch.frombuffer(data, dtype=torch.uint8).view(-1, row_elements * itemsize)
    columns = table.split([box.sizes[-1] * itemsize for box in boxes], dim=1)
    return [memoryview(values.contiguous().flatten().numpy()) for values in columns]


class _Sink:
    """A box on its way to its file: the head first, bytes as they come, and the tail with their check sum."""

    def __init__(self, files: OpenFiles, folder: Path, box: StoredBox) -> None:
        self._descriptor, self._frame = files.descriptor(folder / box.file), box.frame
        self._arrived, self._checksum = 0, 0
        write_at(self._descriptor, memoryview(self._frame.head), box.offset)
        self._data = box.offset + len(self._frame.head)

    def write(self, data: memoryview) -> None:
        write_at(self._descriptor, data, self._data + self._arrived)
        self._checksum = crc32(data, self._checksum)
        self._arrived += len(data)

    def finish(self) -> None:
        assert self._arrived == self._frame.num_bytes, f"{self._arrived} of {self._frame.num_bytes} bytes came"
        write_at(self._descriptor, memoryview(self._frame.tail_for(self._checksum)), self._data + self._arrived)
