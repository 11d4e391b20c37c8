"""From the trainer's stream of weights into an engine: in parts, and with the trainer's failures told apart."""

from __future__ import annotations

from collections.abc import Iterator

import torch

PART_BYTES = 64 << 20  # of weights handed to the worker in one call

Weights = Iterator[tuple[str, torch.Tensor]]  # names on disk and full tensors


class SourceError(RuntimeError):
    """The trainer could not make the weights that an engine was to take."""


def guarded(stream: Weights) -> Weights:
    """The stream; what it raises itself becomes a SourceError, which an engine's own failure cannot be taken for."""
    try:
        yield from stream
    except Exception as error:  # any failure here leaves the other ranks in a collective
        raise SourceError(f"The trainer's weights could not be gathered: {type(error).__name__}: {error}") from error


def parts(stream: Weights) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Group small tensors, so that a call into the worker carries more than a norm."""
    part, size = [], 0
    for name, tensor in stream:
        part.append((name, tensor))
        size += tensor.nbytes
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
