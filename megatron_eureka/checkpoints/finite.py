"""Are all values of a tensor numbers? In one pass at memory speed; `isfinite().all()` takes ten times as long."""

from __future__ import annotations

import math

import torch


def all_finite(values: torch.Tensor) -> bool:
    """Whether no value is infinite or NaN; `aminmax` hands a NaN on."""
    if not values.numel():
        return True
    low, high = values.aminmax()
    return math.isfinite(low) and math.isfinite(high)


def num_not_finite(values: torch.Tensor) -> int:
    """How many values are infinite or NaN."""
    return int((~values.isfinite()).sum())


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
