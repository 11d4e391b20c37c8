"""Read tensors, or boxes of them, from a Hugging Face folder of safetensors files, one file or several."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from megatron_eureka.checkpoints.files import Extent, OpenFiles
from megatron_eureka.checkpoints.hf_files import INDEX, find_files, read_index
from megatron_eureka.families import on_disk_name

BLOCK_BYTES = 64 << 20  # of a tensor in memory at once while it is copied to its target
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class TensorExtent(Extent):
    """The bytes of a whole tensor."""

    shape: tuple[int, ...]
    dtype: str  # safetensors' name

    @property
    def row_bytes(self) -> int:
        return self.num_bytes // self.shape[0]


class HfReader:
    """The tensors of a folder by on-disk name. Only headers are read at first; files are mapped lazily.

    Raises:
        ValueError: no weights; a file that is missing, damaged or cut off; an index that names what is not there; a
            name in two files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[Path, safe_open] = {}
        self._descriptors = OpenFiles()
        self._where: dict[str, tuple[Path, str]] = {}  # name -> file, name in the file
        self._extents: dict[str, TensorExtent] = {}
        weight_map = read_index(self.folder)
        for file in find_files(self.folder, weight_map):
            keys = self._open(file).keys()
            for key in keys:
                name = on_disk_name(key)
                if name in self._where:
                    raise ValueError(f"{name} is both in {self._where[name][0]} and in {file}; keep one of them.")
                self._where[name] = (file, key)
        for key, file in weight_map.items():
            if self._where.get(on_disk_name(key), (None, None))[0] != self.folder / file:
                raise ValueError(f"{INDEX} in {self.folder} names {key!r} in {file}, which does not hold it.")

    def _open(self, file: Path) -> safe_open:
        if file not in self._files:
            try:
                self._files[file] = safe_open(file, framework="pt")
            except SafetensorError as error:
                raise ValueError(f"{file} is damaged or cut off: {error}. Copy or download it again.") from error
            except OSError as error:
                reason = error.strerror or ("permission denied" if file.exists() else error)
                raise ValueError(f"{file} cannot be read: {reason}.") from error
        return self._files[file]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._where)

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor; the folder itself if none does."""
        return self._where[name][0] if name in self._where else self.folder

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of a tensor.

        Raises:
            ValueError: it is none of float32, bfloat16 and float16; the file and the tensor are named.
        """
        found = self._slice(name).get_dtype()
        if found not in _TORCH_DTYPES:
            raise ValueError(
                f"{name!r} in {self.file_of(name)} has dtype {found}, expected one of {list(_TORCH_DTYPES)}: quantised "
                "weights cannot be trained. Give the model's original weights."
            )
        return _TORCH_DTYPES[found]

    def extent(self, name: str) -> TensorExtent:
        """Where a tensor's raw bytes lie."""
        if name not in self._extents:
            self._read_header(self._where[name][0])
        return self._extents[name]

    def _read_header(self, file: Path) -> None:
        """safetensors' handle has checked the header already, but does not tell the extents in it."""
        with open(file, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        for key, entry in header.items():
            start, end = entry["data_offsets"]
            extent = TensorExtent(file, 8 + size + start, end - start, tuple(entry["shape"]), entry["dtype"])
            self._extents[on_disk_name(key)] = extent

    def read_bytes(self, name: str, start: int, target: memoryview) -> None:
        """Fill `target` with a tensor's raw bytes from byte `start` on; nothing is mapped into memory.

        Raises:
            ValueError: the file ends before.
        """
        self._descriptors.read(self.extent(name), start, target)

    def read_into(self, target: torch.Tensor, name: str, dim: int, start: int) -> None:
        """Copy `target.shape[dim]` entries of `name` from `start` on, whole in all other dims, casting to its dtype.

        Only the wanted bytes are read, about 64 MiB at a time.
        """
        source = self._slice(name)
        rows, width = target.shape[0], target.shape[dim]
        row_bytes = max(1, target[:1].numel() * 4)
        step = max(1, BLOCK_BYTES // row_bytes)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            box = slice(start + first, start + last) if dim == 0 else (slice(first, last), slice(start, start + width))
            target[first:last].copy_(source[box])

    def _slice(self, name: str):
        if name not in self._where:
            raise ValueError(f"{self.folder} holds no tensor {name!r}.")
        file, key = self._where[name]
        return self._open(file).get_slice(key)
