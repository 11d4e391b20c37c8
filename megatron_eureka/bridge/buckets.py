"""Which bytes of which parameters travel together: a pure plan, identical on every rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from megatron_eureka.weights import Rule, shard_shape

ALIGN_BYTES = 16  # of each piece, so that a whole shard in a bucket can be viewed as a tensor of any dtype


@dataclass(frozen=True)
class Owned:
    """A parameter to be sent and where it is."""

    rule: Rule
    stage: int  # pipeline stage that holds it
    dtype: torch.dtype

    def shard_bytes(self, tp_size: int) -> int:
        return torch.Size(shard_shape(self.rule, tp_size)).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Piece:
    """A range of a shard's bytes in a bucket."""

    owned: Owned
    start: int  # in the shard, bytes
    size: int  # bytes
    offset: int  # in the bucket, bytes
    is_last: bool  # of its shard


@dataclass(frozen=True)
class Bucket:
    """What one round of collectives carries."""

    stage: int  # that sends it
    gathered: bool  # over the stage's tensor-parallel ranks: the bucket then holds tp_size parts of `num_bytes`
    pieces: tuple[Piece, ...]
    num_bytes: int  # of one part


def plan_buckets(parameters: Iterable[Owned], tp_size: int, bucket_bytes: int) -> tuple[Bucket, ...]:
    """Fill buckets of at most `bucket_bytes`, in the given order; a larger shard is split over several.

    The tower is replicated and travels as it is. The language model's few replicated vectors ride in the gathered
    buckets of their layer, once for each tensor-parallel rank, which costs less than buckets of their own.

    Raises:
        ValueError: a bucket cannot hold one aligned piece of every tensor-parallel rank.
    """
    if bucket_bytes < ALIGN_BYTES * tp_size:
        raise ValueError(f"A bucket of {bucket_bytes} bytes is too small for {tp_size} ranks' pieces.")
    buckets: list[Bucket] = []
    pieces: list[Piece] = []
    filled, kind = 0, None

    def close() -> None:
        nonlocal pieces, filled
        if pieces:
            buckets.append(Bucket(*kind, tuple(pieces), filled))
        pieces, filled = [], 0

    for owned in parameters:
        now = owned.stage, owned.rule.name.startswith("language_model.")
        if now != kind:
            close()
            kind = now
        capacity = (bucket_bytes // tp_size if kind[1] else bucket_bytes) // ALIGN_BYTES * ALIGN_BYTES
        start, total = 0, owned.shard_bytes(tp_size)
        while start < total:
            if filled == capacity:
                close()
            size = min(total - start, capacity - filled)
            pieces.append(Piece(owned, start, size, filled, start + size == total))
            start += size
            filled += -(-size // ALIGN_BYTES) * ALIGN_BYTES
    close()
    return tuple(buckets)
