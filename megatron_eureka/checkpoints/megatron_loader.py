"""Weights of a Megatron checkpoint (`torch_dist`) for the chunks of a rank, under any layout and either layer spec.

With `in_process_writer.py` the only file of the room that imports Megatron-Core: converting needs none of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.mapping import ShardedObject
from torch.distributed.checkpoint.api import CheckpointException

from megatron_eureka.checkpoints.damage import DamagedCheckpoint, check_whole, plain_objects
from megatron_eureka.checkpoints.finite import check_finite
from megatron_eureka.checkpoints.integrity import check_hashes, check_share
from megatron_eureka.checkpoints.stored import stored_rules, stored_tensor
from megatron_eureka.checkpoints.torch_dist_index import damaged_file
from megatron_eureka.checkpoints.torch_dist_reader import TorchDistReader
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.weights import rules_by_name


class Chunk(Protocol):
    """A part of a Megatron-Core model, as its checkpoints see one."""

    def sharded_state_dict(self, *, metadata: dict[str, Any]) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@torch.no_grad()
def load_megatron(
    folder: str | Path, chunks: Sequence[Chunk], weights: Mapping[str, torch.Tensor], info: ModelInfo
) -> None:
    """Fill this rank's chunks, casting to each parameter's dtype; a collective over all ranks.

    Args:
        folder: the checkpoint; whoever wrote it, under whatever layout, spec and dtype. Nothing in it is run.
        chunks: this rank's, bare. Their FP8 state is new, as after loading a Hugging Face folder.
        weights: the chunks' parameters by Megatron name, with global layer numbers.
        info: sizes of the model.

    Raises:
        ValueError: a tensor is missing, unknown or misshapen, a file is missing or damaged, or another version of the
            table of weights wrote the checkpoint; or its bytes are not those that were written, by its hash or by its
            check sums. All of it is looked at before anything is loaded, so that all ranks refuse together. Or a value
            is infinite or no number; the rank that has it refuses.
    """
    reader = TorchDistReader(folder)
    tensors = [stored_tensor(rule) for rule in stored_rules(info)]
    reader.check_model(tensors, info.num_layers)
    _check_bytes(folder, info)
    one_by_one = any(reader.key_of(tensor) != tensor.key for tensor in tensors)
    metadata = {"non_homogeneous_layers": one_by_one}
    state = {str(number): chunk.sharded_state_dict(metadata=metadata) for number, chunk in enumerate(chunks)}
    loaded = load_sharded(state, folder, extra_state=False)
    for number, chunk in enumerate(chunks):
        chunk.load_state_dict(loaded[str(number)])
    rules = rules_by_name(info)
    for name, weight in weights.items():
        sources = " or ".join(repr(source.name) for source in rules[name].sources)
        check_finite(weight, f"{sources} ({name}) in {folder}")


def _check_bytes(folder: str | Path, info: ModelInfo) -> None:
    """Read all of it once, each rank a share: the loaders of torch and Megatron-Core do not look at check sums."""
    mine: dict[str, str] | str
    try:
        mine = check_share(folder, info, dist.get_rank(), dist.get_world_size())
    except (ValueError, OSError) as error:  # the other ranks wait for an answer
        mine = str(error)
    answers: list = [None] * dist.get_world_size()
    dist.all_gather_object(answers, mine)
    for answer in answers:
        if isinstance(answer, str):
            raise ValueError(answer)
    check_hashes(folder, info, {name: value for answer in answers for name, value in answer.items()})


def load_sharded(
    state: Mapping[str, Mapping[str, Any]], folder: str | Path, extra_state: bool = True
) -> dict[str, Any]:
    """`dist_checkpointing.load`, with None for each `_extra_state` that the checkpoint does not hold.

    Layer specs differ in the modules that have one, and so do releases of Transformer Engine. What is in it matters to
    FP8 alone, and both Transformer Engine and Megatron-Core take None for a new one.

    Args:
        state: dictionaries of sharded objects and tensors, as `sharded_state_dict` makes them, by any name.
        folder: the checkpoint.
        extra_state: False leaves them all out. They are pickles, which run what they name: a run's own are trusted.

    Returns:
        the same dictionaries with what was loaded, and the checkpoint's plain objects beside them.

    Raises:
        ValueError: the checkpoint does not hold what is asked for; as a `DamagedCheckpoint` where it cannot be read.
    """
    stored = check_whole(folder).state_dict_metadata
    absent = {
        (name, key)
        for name, part in state.items()
        for key, item in part.items()
        if isinstance(item, ShardedObject) and item.key.endswith("_extra_state")
        if not (extra_state and item.unique_key in stored)
    }
    present = {
        name: {key: item for key, item in part.items() if (name, key) not in absent} for name, part in state.items()
    }
    try:
        with plain_objects():
            loaded = dist_checkpointing.load(present, str(folder))
    except (CheckpointingException, CheckpointException, KeyError, OSError) as error:
        damaged = damaged_file(Path(folder))  # what torch says of one names no file
        what = f"{damaged} is damaged: its check sums do not hold"
        if damaged is None:
            what = f"The Megatron checkpoint {folder} cannot be loaded: {reason(error)}"
        raise DamagedCheckpoint(f"{what}. Copy it again, or give another checkpoint.") from error
    for name, key in absent:
        loaded[name][key] = None
    return loaded


def reason(error: BaseException) -> str:
    """What went wrong on the first rank that failed, where torch's message holds the stacks of all ranks."""
    cause = first_cause(error)
    text = next(iter(str(cause).splitlines()), "")  # torch goes on with advice that does not fit
    if cause is error:
        return text or type(error).__name__
    return f"rank {min(error.failures)}: {type(cause).__name__}: {text}"


def first_cause(error: BaseException) -> BaseException:
    """What the first rank that failed raised; the error itself where it is another, or tells of no rank."""
    failures = error.failures if isinstance(error, CheckpointException) else {}
    return failures[min(failures)][0] if failures else error
