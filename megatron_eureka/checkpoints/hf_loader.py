"""Fill a rank's parameters from a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from megatron_eureka.checkpoints.finite import check_finite
from megatron_eureka.checkpoints.hf_reader import HfReader
from megatron_eureka.checkpoints.keys import check_source
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.weights.cuts import cut_dim, cuts, match_rules
from megatron_eureka.weights.table import check_tp_size


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
    rules = match_rules(parameters, info, tp_size)
    reader = HfReader(folder)
    for rule in rules.values():
        for source in rule.sources:
            check_source(reader, source, needed_by=rule.name)
    for name, rule in rules.items():
        target, dim = parameters[name].detach(), cut_dim(rule)
        for cut in cuts(rule, tp_rank, tp_size):
            values = target.narrow(dim, cut.offset, cut.size)
            reader.read_into(values, cut.source.name, dim, cut.start)
            check_finite(values, f"{cut.source.name!r} in {reader.file_of(cut.source.name)}")
