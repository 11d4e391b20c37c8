"""Read ranges of tensors from a Hugging Face folder of safetensors files, one file or several with an index."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from megatron_eureka.weights.table import normalise_hf_name

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CHUNK_BYTES = 64 << 20  # of a tensor in memory at once while it is copied to its target


class HfReader:
    """The tensors of a folder by on-disk name. Files are mapped lazily; nothing is read before `read_into`.

    Raises:
        ValueError: no weights, a shard that is missing, damaged or cut off, or a name in two shards.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[Path, safe_open] = {}
        self._where: dict[str, tuple[Path, str]] = {}  # name -> file, name in the file
        for file in self._shards():
            for key in self._open(file).keys():  # noqa: SIM118  (a safetensors handle is no mapping)
                name = normalise_hf_name(key)
                if name in self._where:
                    raise ValueError(f"{name} is both in {self._where[name][0]} and in {file}; keep one of them.")
                self._where[name] = (file, key)

    def _shards(self) -> list[Path]:
        index = self.folder / INDEX
        if not index.is_file():
            single = self.folder / SINGLE
            if not single.is_file():
                raise ValueError(f"{self.folder} holds neither {INDEX} nor {SINGLE}: no Hugging Face weights there.")
            return [single]
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{index} is damaged ({error!r}); download the folder again.") from error
        for name in sorted(names):
            if not (self.folder / name).is_file():
                raise ValueError(f"{self.folder / name} is missing, though {INDEX} names it.")
        return [self.folder / name for name in sorted(names)]

    def _open(self, file: Path) -> safe_open:
        if file not in self._files:
            try:
                self._files[file] = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{file} is damaged or cut off: {error}. Copy or download it again.") from error
        return self._files[file]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._where)

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor; the folder itself if none does."""
        return self._where[name][0] if name in self._where else self.folder

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def read_into(self, target: torch.Tensor, name: str, dim: int, start: int) -> None:
        """Copy `target.shape[dim]` entries of `name` from `start` on, whole in all other dims, casting to its dtype.

        Only the wanted bytes are read, about 64 MiB at a time.
        """
        source = self._slice(name)
        rows, width = target.shape[0], target.shape[dim]
        row_bytes = max(1, target[:1].numel() * 4)
        step = max(1, CHUNK_BYTES // row_bytes)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            box = slice(start + first, start + last) if dim == 0 else (slice(first, last), slice(start, start + width))
            target[first:last].copy_(source[box])

    def _slice(self, name: str):
        if name not in self._where:
            raise ValueError(f"{self.folder} holds no tensor {name!r}.")
        file, key = self._where[name]
        return self._open(file).get_slice(key)
