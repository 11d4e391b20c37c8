"""Read rows of tensors from a Megatron checkpoint (`torch_dist`), whoever wrote it and under whatever layout."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from isal.isal_zlib import crc32
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from megatron_eureka.checkpoints.files import Extent, OpenFiles
from megatron_eureka.checkpoints.hf_reader import DTYPES
from megatron_eureka.checkpoints.stored import LAYERS, Stored, extra_state_keys
from megatron_eureka.checkpoints.torch_dist import METADATA
from megatron_eureka.checkpoints.torch_dist_index import DataExtent, check_files, find_data, load_metadata
from megatron_eureka.families.folder import checkpoints_inside, sharded_backend

# What a run's checkpoint holds beside the model.
RUN_STATE = ("optimizer.", "chained_", "rng_state", "rerun_state", "opt_param_scheduler")
CHECK_BYTES = 1 << 20


@dataclass(frozen=True)
class _Box:
    """A stored box, or what of it belongs to one layer of a stacked tensor."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    archive: Extent
    archive_sizes: tuple[int, ...]  # of the whole stored box
    dtype: torch.dtype
    skip: int = 0  # elements of earlier layers in the archive


class TorchDistReader:
    """The tensors of a Megatron checkpoint. Only the index is read at first.

    Raises:
        ValueError: the folder is no such checkpoint, its index is damaged, a file is missing or too short, or a tensor
            is not covered by its boxes exactly once.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        backend = sharded_backend(self.folder)
        if backend != "torch_dist":
            what = (
                f"it is stored as {backend!r}"
                if backend
                else f"metadata.json is missing{checkpoints_inside(self.folder)}"
            )
            raise ValueError(f"{folder} is no Megatron checkpoint in the format torch_dist: {what}.")
        metadata = load_metadata(self.folder / METADATA)
        self.tensors = {k: m for k, m in metadata.state_dict_metadata.items() if isinstance(m, TensorStorageMetadata)}
        self.objects = metadata.state_dict_metadata.keys() - self.tensors.keys()
        self._files = OpenFiles()
        self._boxes: dict[tuple[str, int | None], list[_Box]] = defaultdict(list)
        self._data: dict[tuple, DataExtent] = {}
        check_files(self.folder, metadata)
        self._index(metadata)

    def _index(self, metadata: Metadata) -> None:
        num_elements: dict[str, int] = defaultdict(int)
        for index, info in metadata.storage_data.items():
            tensor = self.tensors.get(index.fqn)
            if tensor is None or index.fqn.startswith(RUN_STATE):
                continue
            chunk = next((c for c in _candidates(tensor, index.index) if c.offsets == index.offset), None)
            if chunk is None or info.transform_descriptors:
                reason = "is compressed" if chunk else f"has no chunk at {index.offset}"
                raise ValueError(f"{index.fqn} in {self.folder / METADATA} {reason}, which this reader does not know.")
            num_elements[index.fqn] += chunk.sizes.numel()
            starts, sizes, dtype = tuple(chunk.offsets), tuple(chunk.sizes), tensor.properties.dtype
            archive = Extent(self.folder / info.relative_path, info.offset, info.length)
            if index.fqn.startswith(LAYERS) and not index.fqn.removeprefix(LAYERS)[0].isdigit():
                each = torch.Size(sizes[1:]).numel()
                for number in range(sizes[0]):
                    box = _Box(starts[1:], sizes[1:], archive, sizes, dtype, number * each)
                    self._boxes[index.fqn, starts[0] + number].append(box)
            else:
                self._boxes[index.fqn, None].append(_Box(starts, sizes, archive, sizes, dtype))
        for key, tensor in self.tensors.items():
            if not key.startswith(RUN_STATE) and num_elements[key] != tensor.size.numel():
                raise ValueError(
                    f"The chunks of {key} in {self.folder} hold {num_elements[key]} elements, the tensor "
                    f"{list(tensor.size)} has {tensor.size.numel()}: parts are missing or stored twice."
                )
        for (key, _), boxes in self._boxes.items():  # as large together as the tensor, and apart: so they cover it
            if any(_overlap(one, other) for one, other in combinations(boxes, 2)):
                raise ValueError(
                    f"Chunks of {key} in {self.folder} overlap: parts are missing and others stored twice."
                )

    def key_of(self, stored: Stored) -> str:
        """The key that holds a tensor: stacked, or one for each layer, as the checkpoint has it."""
        return stored.key if stored.key in self.tensors else stored.key_of_layer

    def check_model(self, tensors: list[Stored], num_layers: int) -> None:
        """Hold the checkpoint against a model's tensors: all there, with their shapes, and nothing that has no rule.

        Raises:
            ValueError: naming missing, unknown and misshapen keys.
        """
        expected = {self.key_of(tensor): tensor for tensor in tensors}
        missing = [key for key in expected if key not in self.tensors]
        extra = {key.split("._extra_state")[0] for key in extra_state_keys(num_layers)}
        unknown = [
            key
            for key in sorted(self.tensors.keys() - expected.keys() | self.objects)
            if not key.startswith(RUN_STATE) and not ("._extra_state" in key and _stacked(key) in extra)
        ]
        if missing or unknown:
            raise ValueError(
                f"{self.folder} is not the model of its config.json. {len(missing)} tensors are missing: "
                f"{missing[:5]}. {len(unknown)} keys have no rule: {unknown[:5]}. Give the checkpoint's own config, or "
                "convert the model again."
            )
        for key, tensor in expected.items():
            if self.tensors[key].properties.dtype not in DTYPES:
                raise ValueError(
                    f"{key!r} in {self.folder} has dtype {self.tensors[key].properties.dtype}, expected one of "
                    f"{list(DTYPES)}. Give a checkpoint of unquantised weights."
                )
            found = tuple(self.tensors[key].size)
            wanted = tensor.shape if key == tensor.key_of_layer else tensor.full_shape(num_layers)
            if found != wanted:
                raise ValueError(
                    f"{key!r} in {self.folder} has shape {list(found)}, expected {list(wanted)}: the weights belong to "
                    f"another config.json{_padded(tensor, found, wanted)}."
                )

    def dtype(self, stored: Stored) -> torch.dtype:
        return self.tensors[self.key_of(stored)].properties.dtype

    def file_of(self, stored: Stored) -> Path:
        """A file that holds a box of the tensor."""
        return self._boxes_of(stored)[0].archive.file

    def read_rows(self, stored: Stored, start: int, target: memoryview) -> None:
        """Fill `target` with rows of a tensor from `start` on, as bytes of the stored dtype.

        Raises:
            ValueError: some of it is in no box, or an archive is damaged; the file is named.
        """
        itemsize = self.dtype(stored).itemsize
        width = torch.Size(stored.shape[1:]).numel()
        end, filled = start + len(target) // (width * itemsize), 0
        for box in self._boxes_of(stored):
            first, last = max(start, box.starts[0]), min(end, box.starts[0] + box.sizes[0])
            if first < last:
                columns = torch.Size(box.sizes[1:]).numel()
                offset = (box.skip + (first - box.starts[0]) * columns) * itemsize
                rows = target[(first - start) * width * itemsize : (last - start) * width * itemsize]
                if columns == width:
                    self._read(box, rows, offset)
                else:
                    self._read_columns(box, rows, offset, width * itemsize, columns * itemsize)
                filled += (last - first) * columns * itemsize
        if filled != len(target):
            raise ValueError(f"No chunk in {self.folder} holds all of rows {start} to {end} of {stored.key_of_layer}.")

    def _boxes_of(self, stored: Stored) -> list[_Box]:
        key = self.key_of(stored)
        return self._boxes[key, stored.layer if key == stored.key and stored.layer is not None else None]

    def _read_columns(self, box: _Box, target: memoryview, offset: int, row_bytes: int, column_bytes: int) -> None:
        rows = len(target) // row_bytes
        block = bytearray(rows * column_bytes)
        self._read(box, memoryview(block), offset)
        left = box.starts[1] * (column_bytes // box.sizes[1])
        whole = torch.frombuffer(target, dtype=torch.uint8).view(rows, row_bytes)
        whole[:, left : left + column_bytes] = torch.frombuffer(block, dtype=torch.uint8).view(rows, column_bytes)

    def _read(self, box: _Box, target: memoryview, offset: int) -> None:
        self._files.read(self._data_of(box), offset, target)

    def _data_of(self, box: _Box) -> DataExtent:
        """Where a box's raw bytes lie; looked up in its archive once."""
        key = (box.archive, box.archive_sizes, box.dtype)
        if key not in self._data:
            self._data[key] = find_data(*key)
        return self._data[key]

    def check_sums(self, stored: Stored) -> None:
        """Hold all boxes of a tensor against the check sums that were written with them.

        Raises:
            ValueError: one differs; the file is named.
        """
        for box in self._boxes_of(stored):
            data, found = self._data_of(box), 0
            buffer = memoryview(bytearray(min(CHECK_BYTES, data.num_bytes)))
            for start in range(0, data.num_bytes, CHECK_BYTES):
                block = buffer[: min(CHECK_BYTES, data.num_bytes - start)]
                self._files.read(data, start, block)
                found = crc32(block, found)
            if data.checksum not in (found, 0):  # 0: written without one, for torch can leave them out
                raise ValueError(
                    f"{data.file} is damaged: {stored.key_of_layer} there does not have its check sum. Copy the "
                    "checkpoint again."
                )


def _padded(tensor: Stored, found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    vocabulary = "word_embeddings" in tensor.key or "output_layer" in tensor.key
    return " or have a padded vocabulary, which is not supported" if vocabulary and found > wanted else ""


def _overlap(one: _Box, other: _Box) -> bool:
    sides = zip(one.starts, one.sizes, other.starts, other.sizes, strict=True)
    return all(start < begin + length and begin < start + size for start, size, begin, length in sides)


def _stacked(key: str) -> str:
    """The module of an `_extra_state` key, without a layer number."""
    module = key.split("._extra_state")[0]
    if module.startswith(LAYERS):
        number, _, rest = module.removeprefix(LAYERS).partition(".")
        return LAYERS + rest if number.isdigit() else module
    return module


def _candidates(tensor: TensorStorageMetadata, index: int | None) -> list:
    """Chunks in which to look for an entry, the likely one first."""
    likely = [tensor.chunks[index]] if index is not None and index < len(tensor.chunks) else []
    return likely + tensor.chunks
