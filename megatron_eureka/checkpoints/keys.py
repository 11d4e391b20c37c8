"""Is a folder or a checkpoint the model it says it is? By names and shapes alone, before a byte of it is copied."""

from __future__ import annotations

from pathlib import Path

from megatron_eureka.checkpoints.companions import read_description
from megatron_eureka.checkpoints.hf_reader import HfReader
from megatron_eureka.checkpoints.stored import stored_rules, stored_tensor
from megatron_eureka.checkpoints.torch_dist_reader import TorchDistReader
from megatron_eureka.checkpoints.unknown_names import cause, is_buffer
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.weights.table import HfTensor, hf_tensors


def check_hf_keys(folder: str | Path, info: ModelInfo) -> None:
    """Hold a folder against the table: each tensor of the model is there, with its shape, and nothing else.

    Raises:
        ValueError: naming missing, unknown, misshapen and quantised tensors with file and shapes.
    """
    reader, expected = HfReader(folder), hf_tensors(info)
    redundant = {"lm_head.weight"} if info.tied else set()  # some tied checkpoints hold the head a second time
    unknown = sorted(name for name in reader.names - expected.keys() - redundant if not is_buffer(name))
    missing = [name for name in expected if name not in reader.names]
    if missing or unknown:
        found = "; ".join(f"{name} {list(reader.shape(name))} in {reader.file_of(name)}" for name in unknown[:5])
        wanted = "; ".join(f"{name} {list(expected[name].shape)}" for name in missing[:5])
        raise ValueError(
            f"{folder} is not the model of its config.json. {len(missing)} tensors are missing: [{wanted}]. "
            f"{len(unknown)} have no rule: [{found}]. {cause(unknown)}".rstrip()
        )
    for source in expected.values():
        check_source(reader, source, needed_by="the model")
        reader.dtype(source.name)


def check_megatron_keys(folder: str | Path, info: ModelInfo) -> None:
    """Hold a Megatron checkpoint against the table: each tensor of the model is there, with its shape, and all files.

    Raises:
        ValueError: it is damaged or incomplete, or another model; or another version of the table wrote it.
    """
    reader = TorchDistReader(folder)
    read_description(Path(folder))
    reader.check_model([stored_tensor(rule) for rule in stored_rules(info)], info.num_layers)


def check_source(reader: HfReader, source: HfTensor, needed_by: str) -> None:
    """Hold one tensor of a folder against its shape in the table.

    Args:
        needed_by: for messages.

    Raises:
        ValueError: it is missing or has another shape.
    """
    if source.name not in reader.names:
        raise ValueError(
            f"{reader.folder} holds no tensor {source.name!r} of shape {list(source.shape)}, which {needed_by} needs."
        )
    found = reader.shape(source.name)
    if found != source.shape:
        raise ValueError(
            f"{source.name!r} in {reader.file_of(source.name)} has shape {list(found)}, expected {list(source.shape)} "
            f"for {needed_by}: the weights belong to another config.json."
        )
