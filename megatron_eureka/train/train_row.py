"""A packed row on its way through a step, with what each stage finds out about its targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from megatron_eureka.model.rows import to_device
from megatron_eureka.parallel.groups import device
from megatron_eureka.types import MicroBatch


@dataclass(frozen=True)
class TrainRow:
    """A row as it goes through the pipeline, whole. What a stage has not found yet is None.

        make_update -> with_old_logprobs -> with_reference -> with_advantages -> update

    What forward passes find is there on the last pipeline stage; on the others it is empty.
    """

    micro_batch: MicroBatch
    token_weights: torch.Tensor | None = None  # [targets] float32 in the loss; 0 for a token that is not trained
    engine_logprobs: torch.Tensor | None = None  # [targets] float32 as reported; NaN for a token that it did not draw
    stale: torch.Tensor | None = None  # [targets] bool, drawn by an older policy than the one the step starts from
    old_logprobs: torch.Tensor | None = None  # [targets] float32, under the weights that the step starts from
    correction: torch.Tensor | None = None  # [targets] float32, factors of the policy losses
    reference_logprobs: torch.Tensor | None = None  # [targets] float32, under the model that the run started from
    advantages: torch.Tensor | None = None  # [targets] float32

    @property
    def sample_index(self) -> torch.Tensor:
        """[targets] int64, which sample of the update each target belongs to."""
        return self.micro_batch.sample_index

    def to_device(self) -> TrainRow:
        """The row with its tensors on this rank's device."""
        tensors = {name: value.to(device()) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, micro_batch=to_device(self.micro_batch), **tensors)
