"""Fill a rank's parameters from a Hugging Face folder, and check that a folder is the model it says it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.weights.companions import read_description
from megatron_eureka.weights.finite import all_finite, num_not_finite
from megatron_eureka.weights.hf_reader import HfReader
from megatron_eureka.weights.layout import cut_dim, cuts, shard_shape
from megatron_eureka.weights.stored import stored_rules, stored_tensor
from megatron_eureka.weights.table import HfTensor, Rule, check_tp_size, hf_tensors, rules_by_name
from megatron_eureka.weights.torch_dist_reader import TorchDistReader
from megatron_eureka.weights.unknown_names import cause, is_buffer


def load_hf(
    folder: str | Path, parameters: Mapping[str, torch.Tensor], info: ModelInfo, tp_rank: int, tp_size: int
) -> None:
    """Fill the given tensors in place, reading only this rank's bytes and casting to each tensor's dtype.

    Args:
        folder: Hugging Face folder with safetensors weights, under the older or the newer names.
        parameters: this rank's local tensors by Megatron name (`language_model.*` with global layer numbers under
            either layer spec, `visual.*`); whatever part of the model this pipeline stage holds.
        info: sizes of the model.
        tp_rank: this rank's place in its tensor-parallel group of `tp_size`.

    Raises:
        ValueError: an unknown parameter, a parameter given twice, a missing or damaged file, a missing tensor, or a
            shape that differs from the expected one, on either side; both names and shapes are given. All names and
            shapes are compared before the first byte is copied. Or a value that is infinite or no number, which else
            only the loss would show.
    """
    check_tp_size(info, tp_size)
    rules = _match(parameters, info, tp_size)
    reader = HfReader(folder)
    for rule in rules.values():
        for source in rule.sources:
            _check_source(reader, source, needed_by=rule.name)
    for name, rule in rules.items():
        target, dim = parameters[name].detach(), cut_dim(rule)
        for cut in cuts(rule, tp_rank, tp_size):
            part = target.narrow(dim, cut.offset, cut.size)
            reader.read_into(part, cut.source.name, dim, cut.start)
            check_finite(part, f"{cut.source.name!r} in {reader.file_of(cut.source.name)}")


def check_finite(values: torch.Tensor, what: str) -> None:
    """Refuse weights that are not all numbers.

    Args:
        what: the tensor and where it lies.

    Raises:
        ValueError: naming the tensor.
    """
    if not all_finite(values):
        raise ValueError(
            f"{what} holds {num_not_finite(values)} values that are infinite or no numbers. The weights are damaged, "
            "or the training that they come from diverged: give sound ones."
        )


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
        _check_source(reader, source, needed_by="the model")
        reader.dtype(source.name)


def check_megatron_keys(folder: str | Path, info: ModelInfo) -> None:
    """Hold a Megatron checkpoint against the table: each tensor of the model is there, with its shape, and all files.

    Raises:
        ValueError: it is damaged or incomplete, or another model; or another version of the table wrote it.
    """
    reader = TorchDistReader(folder)
    read_description(Path(folder))
    reader.check_model([stored_tensor(rule) for rule in stored_rules(info)], info.num_layers)


def _match(parameters: Mapping[str, torch.Tensor], info: ModelInfo, tp_size: int) -> dict[str, Rule]:
    """The rule of each given parameter, its shape compared."""
    known, rules, names = rules_by_name(info), {}, {}
    for name, tensor in parameters.items():
        rule = known.get(name)
        if rule is None:
            raise ValueError(
                f"No rule for parameter {name!r} of shape {list(tensor.shape)}. Known are language_model.* with layers "
                f"0 to {info.num_layers - 1} and visual.* with blocks 0 to {info.vision.depth - 1}."
            )
        if rule.name in names:
            raise ValueError(f"{name!r} and {names[rule.name]!r} are the same parameter; give one of them.")
        expected = shard_shape(rule, tp_size)
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"Parameter {name!r} has shape {list(tensor.shape)}, expected {list(expected)} at tensor-parallel "
                f"size {tp_size}: the model was built from other sizes than {info.hidden_size} x {info.num_layers}."
            )
        rules[name], names[rule.name] = rule, name
    return rules


def _check_source(reader: HfReader, source: HfTensor, needed_by: str) -> None:
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
