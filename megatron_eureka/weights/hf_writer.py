"""Write a Hugging Face folder as tensors arrive: planned files, positioned writes, a rename at the end.

The table says beforehand which tensors there will be, so headers are written first and each tensor goes straight to its
place. No more than the tensor at hand is in memory, and tensors may come in any order.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.weights.hf_reader import INDEX, SINGLE
from megatron_eureka.weights.table import HfTensor, hf_tensors, normalise_hf_name

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
COPIED_SUFFIXES = {".json", ".jinja", ".txt", ".model"}  # config, tokenizer, processor, chat template
DEFAULT_SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie."""

    file: str
    offset: int  # bytes from the start of the file
    num_bytes: int
    shape: tuple[int, ...]


def plan(tensors: Iterable[HfTensor], dtype: torch.dtype, max_shard_bytes: int) -> tuple[dict[str, bytes], dict]:
    """Cut tensors, in order, into files of at most `max_shard_bytes` (a larger tensor has a file of its own).

    Returns:
        The head of each file (length and header), and the place of each tensor.
    """
    shards, filled = [[]], 0
    for tensor in tensors:
        size = _num_bytes(tensor, dtype)
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    heads, places = {}, {}
    for index, shard in enumerate(shards):
        file = SINGLE if len(shards) == 1 else f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for tensor in shard:
            start, end = end, end + _num_bytes(tensor, dtype)
            header[tensor.name] = {"dtype": DTYPES[dtype], "shape": tensor.shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
        heads[file] = len(text).to_bytes(8, "little") + text
        for tensor in shard:
            start, end = header[tensor.name]["data_offsets"]
            places[tensor.name] = Place(file, len(heads[file]) + start, end - start, tensor.shape)
    return heads, places


def _num_bytes(tensor: HfTensor, dtype: torch.dtype) -> int:
    return torch.Size(tensor.shape).numel() * dtype.itemsize


class HfWriter:
    """A folder in the making, under a temporary name beside its final one. Use as a context manager.

    Leaving the block without an error checks that every tensor came and renames; leaving it with one removes all.
    """

    def __init__(
        self, folder: str | Path, like: str | Path, dtype: torch.dtype, max_shard_bytes: int = DEFAULT_SHARD_BYTES
    ) -> None:
        self.folder, self.like, self.dtype = Path(folder), Path(like), dtype
        if dtype not in DTYPES:
            raise ValueError(f"Weights are written as one of {list(DTYPES)}, got {dtype}.")
        _refuse_existing(self.folder)
        self._heads, self._places = plan(
            hf_tensors(ModelInfo.from_folder(like)).values(), dtype, max_shard_bytes=max_shard_bytes
        )
        self._partial = self.folder.with_name(f".{self.folder.name}.partial-{os.getpid()}")
        self._written: set[str] = set()
        self._files: dict[str, int] = {}

    def __enter__(self) -> HfWriter:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._partial, ignore_errors=True)  # left by a killed process of the same id
        self._partial.mkdir()
        for name, head in self._heads.items():
            self._files[name] = os.open(self._partial / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            _write_at(self._files[name], memoryview(head), 0)
        return self

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Put a full tensor in its place, cast to the folder's dtype.

        Raises:
            ValueError: the name is unknown or came before, or the shape is not the model's.
        """
        name = normalise_hf_name(name)
        place = self._places.get(name)
        if place is None:
            raise ValueError(f"{name!r} of shape {list(tensor.shape)} is no tensor of the model in {self.like}.")
        if tuple(tensor.shape) != place.shape:
            raise ValueError(
                f"{name!r} has shape {list(tensor.shape)}, expected {list(place.shape)} as in {self.like}."
            )
        if name in self._written:
            raise ValueError(f"{name!r} came twice; each tensor is written once.")
        data = tensor.detach().to("cpu", self.dtype).contiguous().flatten().view(torch.uint8)
        _write_at(self._files[place.file], memoryview(data.numpy()), place.offset)
        self._written.add(name)

    def __exit__(self, kind, error, trace) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            for file in self._files.values():
                os.close(file)
            shutil.rmtree(self._partial, ignore_errors=True)  # after the rename there is nothing of that name

    def _finish(self) -> None:
        missing = [name for name in self._places if name not in self._written]
        if missing:
            raise ValueError(f"{len(missing)} of {len(self._places)} tensors never came, among them {missing[:5]}.")
        self._write_index()
        _copy_companions(self.like, self._partial, self.dtype)
        for file in self._files.values():
            os.fsync(file)
        _refuse_existing(self.folder)  # a rename would silently replace an empty folder that appeared meanwhile
        self._partial.rename(self.folder)

    def _write_index(self) -> None:
        if len(self._heads) == 1:
            return
        total = sum(place.num_bytes for place in self._places.values())
        weight_map = {name: place.file for name, place in self._places.items()}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
        (self._partial / INDEX).write_text(text, encoding="utf-8")


def save_hf(
    folder: str | Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    like: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write a Hugging Face folder from a stream of full tensors.

    Args:
        folder: must not exist; it appears under this name only when it is whole.
        tensors: names and full tensors, each of the model's once, in any order.
        like: folder of the same model; its config, tokenizer, processor, generation config and chat template are
            copied, with `dtype` put into the config.
        dtype: of the files; by default that of the first tensor.
        max_shard_bytes: size from which a further file is begun.

    Raises:
        ValueError: the target exists; a tensor is unknown, misshapen, missing or came twice.
    """
    _refuse_existing(Path(folder))
    stream = iter(tensors)
    first = next(stream, None)
    if first is None:
        raise ValueError(f"No tensors to write to {folder}.")
    with HfWriter(folder, like, dtype or first[1].dtype, max_shard_bytes) as writer:
        writer.write(*first)
        for name, tensor in stream:
            writer.write(name, tensor)


def _refuse_existing(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} exists already. Give a new name or remove it first.")


def _write_at(file: int, data: memoryview, offset: int) -> None:
    while data:  # one call writes at most 2 GiB
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def _copy_companions(like: Path, target: Path, dtype: torch.dtype) -> None:
    for file in sorted(like.iterdir()):
        if file.is_file() and file.suffix in COPIED_SUFFIXES and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)
    config_file = target / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    name = str(dtype).removeprefix("torch.")
    old_key = "torch_dtype" in config and "dtype" not in config
    config["torch_dtype" if old_key else "dtype"] = name
    for section in ("text_config", "vision_config"):
        for key in ("dtype", "torch_dtype"):
            if key in config.get(section, {}):
                config[section][key] = name
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
