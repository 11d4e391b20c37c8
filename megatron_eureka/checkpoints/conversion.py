"""What the two directions of a conversion have in common: their result, and how they fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_eureka.checkpoints.streaming import hash_weights
from megatron_eureka.files import DiskFull, naming_full_disk
from megatron_eureka.weights.table import HfTensor


@dataclass(frozen=True)
class Conversion:
    """What a conversion did, or would do."""

    target: Path
    num_tensors: int  # Hugging Face's
    file_bytes: Mapping[str, int]  # of each file of weights
    seconds: float = 0.0  # 0: a dry run
    weights_hash: str = ""  # of the tensors written; independent of files, layout and direction

    @property
    def num_bytes(self) -> int:
        return sum(self.file_bytes.values())

    def __str__(self) -> str:
        size = f"{self.num_tensors} tensors, {self.num_bytes / 1e9:.3f} GB in {len(self.file_bytes)} files"
        if not self.seconds:
            files = "".join(f"\n  {name}  {size / 1e9:.3f} GB" for name, size in self.file_bytes.items())
            return f"would write {self.target}: {size}{files}"
        speed = f"{self.seconds:.2f} s, {self.num_bytes / 1e9 / self.seconds:.2f} GB/s"
        return f"wrote {self.target}: {size}, {speed}\nweights {self.weights_hash}"


@contextmanager
def clear_errors(target: Path, done: str = "written") -> Iterator[None]:
    """Say of a failed read or write what it ended.

    Raises:
        DiskFull: the disk is full.
        RuntimeError: instead of another OSError.
    """
    try:
        with naming_full_disk(target):
            yield
    except DiskFull as error:
        raise DiskFull(f"{target} was not {done}, and nothing half-written is left. {error}") from error
    except OSError as error:
        raise RuntimeError(
            f"{target} was not {done}: {error}. Nothing half-written is left. Mend what is named (permissions, "
            "the file system), then start again."
        ) from error


def hash_tensors(tensors: Mapping[str, HfTensor], dtypes: Mapping[str, torch.dtype], hashes: Mapping[str, str]) -> str:
    """The hash of a model from those of its tensors' bytes, by Hugging Face name."""
    return hash_weights({name: (dtypes[name], tensor.shape, hashes[name]) for name, tensor in tensors.items()})


def reject_other_hash(folder: str | Path, found: str, written: str | None) -> None:
    """Compare the hash of what was read with the one that a checkpoint carries, if it does.

    Raises:
        ValueError: they differ.
    """
    if written not in (None, found):
        raise ValueError(
            f"The weights in {folder} have the hash {found}, but were written with {written}: the checkpoint is "
            "damaged. Convert or copy it again."
        )
