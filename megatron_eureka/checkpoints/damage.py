"""Is a checkpoint whole? By its index, its files' sizes and its plain objects; without reading tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata

from megatron_eureka.checkpoints.companions import read_description
from megatron_eureka.checkpoints.torch_dist import METADATA, PLAIN_OBJECTS
from megatron_eureka.checkpoints.torch_dist_index import check_files, load_metadata
from megatron_eureka.types import Group, ImageKey, Prompt, Sample


class DamagedCheckpoint(ValueError):
    """Files of a checkpoint are missing, cut off or unreadable; another one may be whole."""


# Older runs stored waiting groups as these; they hold fields and run nothing.
_OLDER_CLASSES = [Group, Prompt, Sample, ImageKey]


def plain_objects() -> AbstractContextManager[None]:
    """Inside, a checkpoint's plain objects can be loaded, those of older runs too; any other class is refused."""
    return torch.serialization.safe_globals(_OLDER_CLASSES)


def check_whole(folder: str | Path) -> Metadata:
    """Look at what a checkpoint consists of without reading its tensors: in milliseconds, on one rank if need be.

    Returns:
        its index.

    Raises:
        DamagedCheckpoint: naming the file that is missing, cut off or unreadable.
    """
    try:
        read_description(Path(folder))
        metadata = load_metadata(Path(folder) / METADATA)
        check_files(Path(folder), metadata)
    except (ValueError, OSError) as error:
        raise DamagedCheckpoint(str(error)) from error
    read_plain_objects(folder)
    return metadata


def damage_of(folder: str | Path) -> str | None:
    """What `check_whole` finds, in words."""
    try:
        check_whole(folder)
    except DamagedCheckpoint as error:
        return str(error)
    return None


def read_plain_objects(folder: str | Path) -> dict[str, Any]:
    """What lies beside the tensors: the progress of a run, its layer spec.

    Megatron-Core answers a missing file with an AttributeError, and a damaged one as if a collective had failed.

    Raises:
        DamagedCheckpoint: the file is missing or damaged, or holds a class.
    """
    file = Path(folder) / PLAIN_OBJECTS
    try:
        with plain_objects():
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged pickle raises depends on where it breaks
        raise DamagedCheckpoint(f"{file} is missing or damaged: {error}. Copy the checkpoint again.") from error
