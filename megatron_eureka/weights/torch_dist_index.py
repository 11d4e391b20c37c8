"""What a `torch_dist` checkpoint says of itself, read without running anything that its pickles might name."""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata

from megatron_eureka.weights.torch_dist import data_offset

_STORAGES = {
    torch.float32: "torch.FloatStorage",
    torch.bfloat16: "torch.BFloat16Storage",
    torch.float16: "torch.HalfStorage",
}


@dataclass(frozen=True)
class RawData:
    """Where the raw bytes of a chunk lie."""

    file: Path
    offset: int
    num_bytes: int
    checksum: int  # CRC-32 as it was written


class _SafeUnpickler(pickle.Unpickler):
    """Builds what an index is made of and nothing else: a pickle could name any function, which would then run."""

    MODULES = tuple(f"torch.distributed.checkpoint.{name}" for name in ("metadata", "filesystem", "planner"))
    NAMES = {
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("pathlib", "PosixPath"),
        ("pathlib", "Path"),
    }

    def find_class(self, module: str, name: str):
        known = (module, name) in self.NAMES or (module == "torch" and isinstance(getattr(torch, name, 0), torch.dtype))
        if known or (module in self.MODULES and "." not in name):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of the format")


def load_metadata(file: Path) -> Metadata:
    """The index of a checkpoint.

    Raises:
        ValueError: it is missing or damaged, or names what is no part of the format.
    """
    try:
        with open(file, "rb") as stream:
            metadata = _SafeUnpickler(stream).load()
        if isinstance(metadata, Metadata) and metadata.storage_data:
            return metadata
        reason = "it lists nothing"
    except OSError as error:
        reason = error.strerror
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, ValueError, TypeError) as error:
        reason = str(error) or type(error).__name__
    raise ValueError(f"{file} is missing or damaged: {reason}. Copy the checkpoint again.")


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


class _Part(io.RawIOBase):
    """A part of a file as a file of its own (torch's own class for it cannot seek from the end, as `zipfile` does)."""

    def __init__(self, stream: io.BufferedReader, offset: int, length: int) -> None:
        self._stream, self._offset, self._length, self._at = stream, offset, length, 0

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
        data = self._stream.read(min(len(target), self._length - self._at))
        target[: len(data)] = data
        self._at += len(data)
        return len(data)


def find_raw_data(file: Path, place: _StorageInfo, sizes: tuple[int, ...], dtype: torch.dtype) -> RawData:
    """Where the raw bytes of a chunk lie, from the directory of its archive.

    Args:
        sizes, dtype: of the chunk, by the index.

    Raises:
        ValueError: the archive is damaged, or holds anything but one contiguous tensor of these sizes and this dtype.
    """
    try:
        with open(file, "rb") as stream:
            archive = _Part(stream, place.offset, place.length)
            with zipfile.ZipFile(archive) as directory:
                records = {item.filename.partition("/")[2]: item for item in directory.infolist()}
                record, found = records["data/0"], _tensor_of(directory.read(records["data.pkl"]))
            offset = place.offset + data_offset(archive, record)
    except (zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file} is damaged at {place.offset}: {error}. Copy the checkpoint again.") from error
    if record.compress_type != zipfile.ZIP_STORED or found != (_STORAGES.get(dtype), sizes):
        raise ValueError(
            f"{file} holds {found or 'a tensor with gaps'} at {place.offset}, but by the index it is {list(sizes)} of "
            f"{dtype}: the files belong to another checkpoint. Copy it again."
        )
    return RawData(file, offset, record.file_size, record.CRC)
