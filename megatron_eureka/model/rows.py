"""Rows on their way to the model."""

from __future__ import annotations

from dataclasses import replace

import torch

from megatron_eureka.parallel.groups import device
from megatron_eureka.types import MicroBatch


def to_device(row: MicroBatch) -> MicroBatch:
    """The row with its tensors on this rank's device."""
    where = device()
    tensors = {name: value.to(where) for name, value in vars(row).items() if isinstance(value, torch.Tensor)}
    return replace(row, **tensors)
