"""The files of Megatron-Core's `torch_dist` format, written block by block instead of from tensors in memory.

`torch.distributed.checkpoint` keeps each box of a tensor (it says chunk) as one `torch.save` archive inside a `.distcp`
file, and the extents of all archives in a pickled `.metadata`:

    __0_0.distcp, one for each rank that the files are laid out for; archives without gaps between them
    +--------------------+--------------------+--------------------+- -
    | archive of a box   | archive of a box   | archive of a box   |
    +--------------------+--------------------+--------------------+- -
                         |<--- its extent --->|

    an archive, a zip file without compression: a frame, made of head and tail, around the raw bytes
    +---------------------------------+--------------------------+-------------------------------------------+
    | head: data.pkl (dtype, sizes),  | data/0: the elements of  | tail: CRC-32 of data/0, version,          |
    | byteorder, header of data/0     | the box, row by row      | directory of the archive (the CRC again)  |
    +---------------------------------+--------------------------+-------------------------------------------+
                                      ^ a multiple of 64 bytes from the archive's start

The frame depends on the box's sizes and dtype alone; torch itself makes it here, and only the CRC is filled in later.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import struct
import tempfile
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from megatron_eureka.checkpoints.files import Extent

METADATA = ".metadata"
PLAIN_OBJECTS = "common.pt"
BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
_DESCRIPTOR, _ENTRY = b"PK\x07\x08", b"PK\x01\x02"  # of the zip format: after a record's data; in the directory


@dataclass(frozen=True)
class Frame:
    """What `torch.save` writes around a tensor's raw bytes."""

    head: bytes
    num_bytes: int  # of the raw data
    tail: bytes
    checksum_offsets: tuple[int, ...]  # in the tail: where the CRC-32 of the data belongs

    @property
    def size(self) -> int:
        return len(self.head) + self.num_bytes + len(self.tail)

    def tail_for(self, checksum: int) -> bytes:
        """The tail with the CRC-32 of the data."""
        tail = bytearray(self.tail)
        for offset in self.checksum_offsets:
            struct.pack_into("<I", tail, offset, checksum)
        return bytes(tail)


@cache
def frame(sizes: tuple[int, ...], dtype: torch.dtype) -> Frame:
    """The frame of a contiguous tensor, from an archive that torch writes with a hole for the data."""
    num_bytes = torch.Size(sizes).numel() * dtype.itemsize
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive"  # also the name of the folder inside
        try:
            with torch.serialization.skip_data():
                torch.save(torch.empty(sizes, dtype=dtype), path)
        except RuntimeError as error:  # of a full disk torch says "unexpected pos 704 vs 598"
            code = errno.EIO if shutil.disk_usage(folder).free else errno.ENOSPC
            raise OSError(code, f"{os.strerror(code)} for a temporary file ({error})", folder) from error
        with open(path, "rb") as archive, zipfile.ZipFile(archive) as directory:
            record = next(item for item in directory.infolist() if item.filename.endswith("/data/0"))
            start, first_entry = data_offset(archive, record), directory.start_dir
            archive.seek(0)
            head = archive.read(start)
            archive.seek(start + num_bytes)
            tail = archive.read()
    assert tail.startswith(_DESCRIPTOR), "torch.save's archives have changed"
    entry = first_entry - start - num_bytes
    while True:  # entries of the directory, up to that of the record
        assert tail[entry : entry + 4] == _ENTRY, "torch.save's archives have changed"
        name_size, extra_size, comment_size = struct.unpack_from("<HHH", tail, entry + 28)
        if tail[entry + 46 : entry + 46 + name_size] == record.filename.encode():
            return Frame(head, num_bytes, tail, (len(_DESCRIPTOR), entry + 16))
        entry += 46 + name_size + extra_size + comment_size


def data_offset(archive: io.IOBase, record: zipfile.ZipInfo) -> int:
    """Where an uncompressed record's bytes begin in its archive."""
    archive.seek(record.header_offset + 26)
    name_size, extra_size = struct.unpack("<HH", archive.read(4))
    return record.header_offset + 30 + name_size + extra_size


@dataclass(frozen=True)
class StoredBox:
    """A box of a stored tensor, and where its archive begins."""

    key: str
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype
    file: str
    offset: int  # bytes

    @property
    def frame(self) -> Frame:
        return frame(self.sizes, self.dtype)


def empty_object() -> bytes:
    """The archive of an empty `_extra_state`, in the list that Megatron-Core puts around each object."""
    return _archive([None])


def _archive(value: object) -> bytes:
    """What `torch.save` would write; written by Python, whose error names the file and its cause (a full disk)."""
    archive = io.BytesIO()
    torch.save(value, archive)
    return archive.getvalue()


def write_index(
    folder: Path,
    boxes: list[StoredBox],
    shapes: Mapping[str, tuple[int, ...]],
    objects: Mapping[str, Extent],
) -> None:
    """Write what makes `.distcp` files a checkpoint; Megatron-Core's `metadata.json`, by which it is known, comes last.

    Args:
        boxes: of all tensors.
        shapes: of the full tensors, by key.
        objects: extents of what is no tensor, by key.
    """
    tensors: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    archives = {}
    for box in boxes:
        if box.key not in tensors:
            properties = TensorProperties(dtype=box.dtype)
            tensors[box.key] = TensorStorageMetadata(properties, torch.Size(shapes[box.key]), [])
        known, starts = tensors[box.key].chunks, torch.Size(box.starts)
        archives[MetadataIndex(box.key, starts, len(known))] = _StorageInfo(box.file, box.offset, box.frame.size)
        known.append(ChunkStorageMetadata(starts, torch.Size(box.sizes)))
    for key, extent in objects.items():
        tensors[key] = BytesStorageMetadata()
        archives[MetadataIndex(key)] = _StorageInfo(extent.file.name, extent.offset, extent.num_bytes)
    metadata = Metadata(tensors, storage_data=archives, storage_meta=StorageMeta(save_id=str(uuid.uuid4())))
    metadata.version = CURRENT_DCP_VERSION
    (folder / PLAIN_OBJECTS).write_bytes(_archive({}))
    (folder / METADATA).write_bytes(pickle.dumps(metadata))
    (folder / "metadata.json").write_text(json.dumps(BACKEND), encoding="utf-8")
