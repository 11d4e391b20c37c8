"""What a `torch_dist` checkpoint says of itself, read without running anything that its pickles might name."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from isal.isal_zlib import crc32
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from megatron_eureka.checkpoints.files import Extent
from megatron_eureka.checkpoints.torch_dist import METADATA, data_offset

_STORAGES = {
    torch.float32: "torch.FloatStorage",
    torch.bfloat16: "torch.BFloat16Storage",
    torch.float16: "torch.HalfStorage",
}
MAX_DESCRIPTION_BYTES = 1 << 20  # of a tensor in its archive; they have some 200


@dataclass(frozen=True)
class DataExtent(Extent):
    """The raw bytes of a box, inside its archive."""

    checksum: int  # CRC-32 as it was written; 0: none


class _SafeUnpickler(pickle.Unpickler):
    """Builds what an index is made of and nothing else: a pickle can call whatever it can name.

    Names are allowed one by one. A whole module would let in all that it imports, and the interpreter with it.
    """

    NAMES = {
        "torch.distributed.checkpoint.metadata": {
            *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
            *("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        },
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
        "torch.distributed.checkpoint.planner": {  # Megatron-Core's own checkpoints hold the plans of their ranks
            *("SavePlan", "WriteItem", "WriteItemType", "TensorWriteData", "BytesIOWriteData"),
        },
        "torch.serialization": {"_get_layout"},  # a look-up by name
        "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
        "collections": {"OrderedDict"},
        "builtins": {"set", "frozenset"},
        "pathlib": {"PosixPath", "Path"},
    }

    def find_class(self, module: str, name: str):
        if name not in self.NAMES.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of the format")
        return super().find_class(module, name)


def load_metadata(file: Path) -> Metadata:
    """The index of a checkpoint.

    Raises:
        ValueError: it is missing or damaged, or names what is no part of the format.
    """
    try:
        with open(file, "rb") as stream:
            metadata = _SafeUnpickler(stream).load()
        reason = _what_is_wrong(metadata)
    except OSError as error:
        reason = error.strerror
    except Exception as error:  # a damaged pickle may break anywhere, and raise anything
        reason = str(error) or type(error).__name__
    if reason:
        raise ValueError(f"{file} is missing or damaged: {reason}. Copy the checkpoint again.")
    return metadata


def _what_is_wrong(metadata: object) -> str:
    """Why an index cannot be one, by its types: a damaged pickle may build anything. Empty: it can."""
    if not isinstance(metadata, Metadata) or not metadata.storage_data or not metadata.state_dict_metadata:
        return "it lists nothing"
    for index, info in metadata.storage_data.items():
        if not isinstance(index, MetadataIndex) or not isinstance(info, _StorageInfo):
            return "it has entries of an unknown kind"
        numbers = (info.offset, info.length, index.index or 0)
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            return f"its entry of {index.fqn} has no numbers"
        if index.fqn not in metadata.state_dict_metadata:
            return f"it has no description of {index.fqn}"
        if info.relative_path != Path(info.relative_path).name:
            return f"it names {info.relative_path!r}, which is no file in the folder"
    for key, item in metadata.state_dict_metadata.items():
        if not isinstance(item, (TensorStorageMetadata, BytesStorageMetadata)):
            return f"its description of {key} is of an unknown kind"
        chunks = getattr(item, "chunks", [])
        if not all(isinstance(chunk, ChunkStorageMetadata) for chunk in chunks):
            return f"its description of {key} has chunks of an unknown kind"
        if any(len(chunk.offsets) != len(item.size) or len(chunk.sizes) != len(item.size) for chunk in chunks):
            return f"its description of {key} has chunks of other dims than the tensor"
    return ""


@lru_cache(maxsize=4096)
def _tensor_of(pickled: bytes) -> tuple[str, tuple[int, ...]] | None:
    """Storage type and shape in an archive's description; None unless it fills its storage in row-major order."""

    class Look(pickle.Unpickler):
        """Calls nothing that the pickle names."""

        def find_class(self, module: str, name: str):
            if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
            return dict if (module, name) == ("collections", "OrderedDict") else f"{module}.{name}"

        def persistent_load(self, pid):
            return pid

    (_, storage, _, _, num_elements), offset, size, stride = Look(io.BytesIO(pickled)).load()
    expected, step = [], 1
    for length in reversed(size):
        expected.insert(0, step)
        step *= length
    row_major = all(got == want or length == 1 for got, want, length in zip(stride, expected, size, strict=True))
    return (storage, tuple(size)) if offset == 0 and row_major and num_elements == step else None


class _ExtentFile(io.RawIOBase):
    """An extent as a file of its own (torch's own class for it cannot seek from the end, as `zipfile` does)."""

    def __init__(self, stream: io.BufferedReader, extent: Extent) -> None:
        self._stream, self._offset, self._length, self._at = stream, extent.offset, extent.num_bytes, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        return self._at

    def readinto(self, target: memoryview) -> int:
        self._stream.seek(self._offset + self._at)
        data = self._stream.read(max(0, min(len(target), self._length - self._at)))
        target[: len(data)] = data
        self._at += len(data)
        return len(data)


def find_data(archive: Extent, sizes: tuple[int, ...], dtype: torch.dtype) -> DataExtent:
    """Where the raw bytes of a box lie, from the directory of its archive.

    Args:
        sizes, dtype: of the box, by the index.

    Raises:
        ValueError: the archive is damaged, or holds anything but one contiguous tensor of these sizes and this dtype.
    """
    try:
        with open(archive.file, "rb") as stream:
            content = _ExtentFile(stream, archive)
            with zipfile.ZipFile(content) as directory:
                records = {item.filename.partition("/")[2]: item for item in directory.infolist()}
            record, found = records["data/0"], _tensor_of(_stored_bytes(content, records["data.pkl"]))
            offset = data_offset(content, record)
    except OSError:
        raise
    except Exception as error:  # a damaged archive or pickle may break anywhere, and raise anything
        raise ValueError(
            f"{archive.file} is damaged at {archive.offset}: {error!r}. Copy the checkpoint again."
        ) from error
    num_bytes = torch.Size(sizes).numel() * dtype.itemsize
    inside = record.file_size == num_bytes and offset + num_bytes <= archive.num_bytes
    if record.compress_type != zipfile.ZIP_STORED or found != (_STORAGES.get(dtype), sizes) or not inside:
        raise ValueError(
            f"{archive.file} holds {found or 'a tensor with gaps'} at {archive.offset}, but by the index it is "
            f"{list(sizes)} of {dtype}: the files belong to another checkpoint. Copy it again."
        )
    return DataExtent(archive.file, archive.offset + offset, num_bytes, record.CRC)


def _stored_bytes(archive: _ExtentFile, record: zipfile.ZipInfo) -> bytes:
    """A small uncompressed record. `zipfile` would refuse one without a check sum, which torch may leave out.

    Raises:
        ValueError: it is compressed, large, cut off or damaged.
    """
    if record.compress_type != zipfile.ZIP_STORED or record.file_size > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"its {record.filename} is compressed or has {record.file_size} bytes")
    archive.seek(data_offset(archive, record))
    data = archive.read(record.file_size)
    if len(data) != record.file_size or record.CRC not in (crc32(data), 0):
        raise ValueError(f"its {record.filename} does not have its check sum")
    return data


def check_files(folder: Path, metadata: Metadata) -> None:
    """Whether the files that an index names are there and long enough; nothing of them is read.

    Raises:
        ValueError: naming the first that is not.
    """
    needed: dict[str, int] = defaultdict(int)
    for info in metadata.storage_data.values():
        needed[info.relative_path] = max(needed[info.relative_path], info.offset + info.length)
    for name, size in needed.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file} is missing, though {METADATA} names it. Copy the checkpoint again.")
        if file.stat().st_size < size:
            raise ValueError(
                f"{file} is cut off: it has {file.stat().st_size} bytes, {METADATA} names {size}. Copy the "
                "checkpoint again."
            )


def damaged_file(folder: Path) -> Path | None:
    """The first file in which an archive is damaged or does not have its check sum; reads all of them."""
    for info in load_metadata(folder / METADATA).storage_data.values():
        file = folder / info.relative_path
        with open(file, "rb") as stream:
            stream.seek(info.offset)
            content = stream.read(info.length)
        try:
            if zipfile.ZipFile(io.BytesIO(content)).testzip() is not None:
                return file
        except (zipfile.BadZipFile, NotImplementedError, EOFError):
            return file
    return None
