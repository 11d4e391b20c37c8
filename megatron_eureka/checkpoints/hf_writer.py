"""Write a Hugging Face folder as tensors arrive: planned files, positioned writes, a rename at the end.

The table says beforehand which tensors there will be, so headers are written first and each tensor goes straight to its
extent. No more than the block at hand is in memory, and tensors may come in any order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from megatron_eureka.checkpoints.companions import copy_companions
from megatron_eureka.checkpoints.conversion import clear_errors
from megatron_eureka.checkpoints.files import OpenFiles, write_at
from megatron_eureka.checkpoints.hf_files import INDEX, SINGLE
from megatron_eureka.checkpoints.hf_reader import DTYPES, TensorExtent
from megatron_eureka.checkpoints.new_folder import NewFolder
from megatron_eureka.families import on_disk_name
from megatron_eureka.families.rules import HfTensor
from megatron_eureka.families.source import ModelSource
from megatron_eureka.log import progress
from megatron_eureka.weights.table import hf_tensors

DEFAULT_FILE_BYTES = 5 * 10**9


def plan(
    tensors: Iterable[HfTensor], dtypes: Mapping[str, torch.dtype], max_file_bytes: int
) -> tuple[dict[str, bytes], dict[str, TensorExtent]]:
    """Cut tensors, in order, into files of at most `max_file_bytes` (a larger tensor has a file of its own).

    Returns:
        The head of each file (length and header), and the extent of each tensor.
    """

    def num_bytes(tensor: HfTensor) -> int:
        return torch.Size(tensor.shape).numel() * dtypes[tensor.name].itemsize

    files, filled = [[]], 0
    for tensor in tensors:
        size = num_bytes(tensor)
        if files[-1] and filled + size > max_file_bytes:
            files.append([])
            filled = 0
        files[-1].append(tensor)
        filled += size
    heads, extents = {}, {}
    for index, inside in enumerate(files):
        file = SINGLE if len(files) == 1 else f"model-{index + 1:05d}-of-{len(files):05d}.safetensors"
        header, end = {"__metadata__": {"format": "pt"}}, 0
        for tensor in inside:
            start, end = end, end + num_bytes(tensor)
            dtype = DTYPES[dtypes[tensor.name]]
            header[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
        heads[file] = len(text).to_bytes(8, "little") + text
        for tensor in inside:
            entry = header[tensor.name]
            start, end = entry["data_offsets"]
            offset = len(heads[file]) + start
            extents[tensor.name] = TensorExtent(Path(file), offset, end - start, tensor.shape, entry["dtype"])
    return heads, extents


class HfWriter:
    """A folder in the making, under a temporary name beside its final one. Use as a context manager.

    Leaving the block without an error checks that every tensor came and renames; leaving it with one removes all.

    Args:
        folder: the final name.
        like: Hugging Face folder of the same model, from which all files but the weights are copied.
        dtype: of all tensors, or of each one by name. If it is one, it is put into the config.
        max_file_bytes: size from which a further file is begun.
        overwrite, fsync: see `NewFolder`.
    """

    def __init__(
        self,
        folder: str | Path,
        like: str | Path,
        dtype: torch.dtype | Mapping[str, torch.dtype],
        max_file_bytes: int = DEFAULT_FILE_BYTES,
        *,
        overwrite: bool = False,
        fsync: bool = True,
    ) -> None:
        self.folder, self.like = Path(folder), Path(like)
        tensors = hf_tensors(ModelSource.open(like).info)
        self._dtypes = dict.fromkeys(tensors, dtype) if isinstance(dtype, torch.dtype) else dict(dtype)
        self._all_dtypes = set(self._dtypes.values())
        if not DTYPES.keys() >= self._all_dtypes:
            raise ValueError(f"Weights are written as one of {list(DTYPES)}, got {self._all_dtypes}.")
        self._heads, self._extents = plan(tensors.values(), self._dtypes, max_file_bytes)
        self._new = NewFolder(folder, file_bytes=self.file_bytes, overwrite=overwrite, fsync=fsync)
        self._new.check()
        self._arrived = dict.fromkeys(self._extents, 0)  # bytes
        self._files = OpenFiles(os.O_WRONLY | os.O_CREAT)

    @property
    def file_bytes(self) -> dict[str, int]:
        """Size of each file of weights."""
        sizes = {name: len(head) for name, head in self._heads.items()}
        for extent in self._extents.values():
            sizes[extent.file.name] += extent.num_bytes
        return sizes

    def __enter__(self) -> HfWriter:
        self._new.__enter__()
        try:
            for name, head in self._heads.items():
                write_at(self._files.descriptor(self._new.path / name), memoryview(head), 0)
        except BaseException as error:
            self._close(error)
            raise
        return self

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write a full tensor, cast to the folder's dtype.

        Raises:
            ValueError: the name is unknown or came before, or the shape is not the model's.
        """
        name = on_disk_name(name)
        extent = self._extents.get(name)
        if extent is None:
            raise ValueError(f"{name!r} of shape {list(tensor.shape)} is no tensor of the model in {self.like}.")
        if tuple(tensor.shape) != extent.shape:
            raise ValueError(
                f"{name!r} has shape {list(tensor.shape)}, expected {list(extent.shape)} as in {self.like}."
            )
        data = tensor.detach().to("cpu", self._dtypes[name]).contiguous().flatten().view(torch.uint8)
        self.write_bytes(name, 0, memoryview(data.numpy()))

    def write_bytes(self, name: str, start: int, data: memoryview) -> None:
        """Write a block of a tensor, in its dtype, at byte `start`; the blocks of one tensor come in order.

        Raises:
            ValueError: the block came before.
        """
        extent, arrived = self._extents[name], self._arrived[name]
        if start < arrived:
            raise ValueError(f"{name!r} came twice; each tensor is written once.")
        assert start == arrived and start + len(data) <= extent.num_bytes, f"{name}: bytes {start}, {len(data)} of them"
        write_at(self._files.descriptor(self._new.path / extent.file), data, extent.offset + start)
        self._arrived[name] += len(data)

    def __exit__(self, kind, error, trace) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            self._close(failure)
            raise
        self._close(error)

    def _close(self, error: BaseException | None) -> None:
        self._files.close()
        self._new.__exit__(type(error) if error else None, error, None)

    def _finish(self) -> None:
        missing = [name for name, extent in self._extents.items() if self._arrived[name] < extent.num_bytes]
        if missing:
            raise ValueError(f"{len(missing)} of {len(self._extents)} tensors never came, among them {missing[:5]}.")
        one_dtype = next(iter(self._all_dtypes)) if len(self._all_dtypes) == 1 else None
        copy_companions(self.like, self._new.path, one_dtype)
        self._write_index()

    def _write_index(self) -> None:
        if len(self._heads) == 1:
            return
        total = sum(extent.num_bytes for extent in self._extents.values())
        weight_map = {name: str(extent.file) for name, extent in self._extents.items()}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
        (self._new.path / INDEX).write_text(text, encoding="utf-8")


def save_hf(
    folder: str | Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    like: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_file_bytes: int = DEFAULT_FILE_BYTES,
) -> None:
    """Write a Hugging Face folder from a stream of full tensors.

    Args:
        folder: must not exist; it appears under this name only when it is whole.
        tensors: names and full tensors, each of the model's once, in any order.
        like: folder of the same model; its config, tokenizer, processor, generation config and chat template are
            copied, with `dtype` put into the config.
        dtype: of the files; by default that of the first tensor.
        max_file_bytes: size from which a further file is begun.

    Raises:
        ValueError: the target exists; a tensor is unknown, misshapen, missing or came twice.
        RuntimeError: the target could not be written (a full disk); nothing is left of it.
    """
    NewFolder(folder, file_bytes={}).check()
    stream = iter(tensors)
    first = next(stream, None)
    if first is None:
        raise ValueError(f"No tensors to write to {folder}.")
    with clear_errors(Path(folder)), HfWriter(folder, like, dtype or first[1].dtype, max_file_bytes) as writer:
        writer.write(*first)
        for name, tensor in stream:
            writer.write(name, tensor)


def export_hf(
    stream: Iterator[tuple[str, torch.Tensor]], folder: str | Path, like: str | Path, num_tensors: int, is_writer: bool
) -> None:
    """Write a Hugging Face folder from a stream that several ranks make together; one of them is the writer.

    Every rank exhausts its stream, whatever happens to the writer: the others' collectives need it.

    Args:
        stream: names and full tensors, each of the model's once; the same on every rank.
        folder, like: see `save_hf`.
        num_tensors: of the stream, for the progress bar.

    Raises:
        ValueError, RuntimeError: on the writer, see `save_hf`.
    """
    try:
        if is_writer:
            save_hf(folder, progress(stream, "writing weights", num_tensors), like)
    finally:
        for _ in stream:
            pass
