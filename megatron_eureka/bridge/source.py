"""The trainer's sharded weights as a stream of full Hugging Face tensors, on every rank of a replica.

A bucket is gathered over the tensor-parallel ranks of the stage that holds it, then broadcast over the pipeline. Two
buckets exist: while one is being unpacked the next one is under way. Beyond them only the tensor at hand is in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_eureka.bridge.buckets import Bucket, Owned, plan_buckets
from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.weights import check_tp_size, hf_tensors, match_rules, shard_shape, shards_to_hf, table

DEFAULT_BUCKET_BYTES = 512 << 20


@dataclass
class _Flight:
    """A bucket under way."""

    bucket: Bucket
    parts: torch.Tensor  # [tp or 1, bytes] uint8
    work: dist.Work | None


class ShardedSource:
    """Full tensors from this replica's shards. Built and streamed by all its (tp, pp) ranks in lockstep.

    Data- and context-parallel replicas each do the same within their own groups.

    Args:
        parameters: this rank's tensors by Megatron name (`language_model.*` with global layer numbers under either
            layer spec, `visual.*`). They are read anew in each stream, so pass the live parameters.
        info: sizes of the model.
        tp_group, pp_group: this rank's groups; None where the size is 1.
        bucket_bytes: size of each of the two buckets; larger shards are split.
        frozen: Megatron names that a stream without frozen tensors leaves out; the same on every rank.

    Raises:
        ValueError: a parameter has no rule or another shape, the stages together lack one or hold it twice, or they
            were given different frozen names.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        info: ModelInfo,
        *,
        tp_group: dist.ProcessGroup | None = None,
        pp_group: dist.ProcessGroup | None = None,
        bucket_bytes: int = DEFAULT_BUCKET_BYTES,
        frozen: Collection[str] = (),
    ) -> None:
        self._tp_group, self._pp_group = tp_group, pp_group
        self._tp_size = dist.get_world_size(tp_group) if tp_group else 1
        self._stage = dist.get_rank(pp_group) if pp_group else 0
        self._bucket_bytes, self._frozen = bucket_bytes, frozenset(frozen)
        check_tp_size(info, self._tp_size)
        self.num_tensors = len(hf_tensors(info))  # of a stream with the frozen ones
        self._parameters = _by_rule(parameters, info, self._tp_size)
        self._owned = self._find_owners(info)
        self._device = next(iter(self._parameters.values())).device
        self._buffers: list[torch.Tensor] = []
        self._own_part = torch.empty(0, dtype=torch.uint8)

    def stream(self, *, include_frozen: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and full tensors in table order, each once; fresh memory that the consumer may keep.

        Every rank has to exhaust the iterator: the others' collectives need it.
        """
        wanted = [owned for owned in self._owned if include_frozen or owned.rule.name not in self._frozen]
        buckets = plan_buckets(wanted, self._tp_size, self._bucket_bytes)
        self._allocate(buckets)
        under_way: deque[_Flight] = deque()
        halves: dict[str, list[torch.Tensor]] = {}  # shards of which some pieces have arrived
        for index, bucket in enumerate(buckets):
            under_way.append(self._send(bucket, self._buffers[index % 2]))
            if len(under_way) == 2:
                yield from self._unpack(under_way.popleft(), halves)
        while under_way:
            yield from self._unpack(under_way.popleft(), halves)
        assert not halves, f"pieces of {list(halves)} never came"
        self._buffers = []  # between updates the memory is the trainer's

    def _find_owners(self, info: ModelInfo) -> list[Owned]:
        """Every stage's holdings, exchanged once."""
        mine = {name: tensor.dtype for name, tensor in self._parameters.items()}
        holdings = [mine]
        if self._pp_group:
            answers: list = [None] * dist.get_world_size(self._pp_group)
            dist.all_gather_object(answers, (mine, self._frozen), group=self._pp_group)
            holdings = [held for held, _ in answers]
            if any(frozen != self._frozen for _, frozen in answers):
                counts = [len(frozen) for _, frozen in answers]
                raise ValueError(f"The pipeline stages were given different frozen names ({counts} of them).")
        result = []
        for rule in table(info):
            if not rule.exported:
                continue
            stages = [stage for stage, held in enumerate(holdings) if rule.name in held]
            if len(stages) != 1:
                raise ValueError(f"{rule.name} is held by pipeline stages {stages}, expected exactly one of them.")
            result.append(Owned(rule, stages[0], holdings[stages[0]][rule.name]))
        return result

    def _allocate(self, buckets: tuple[Bucket, ...]) -> None:
        sizes = [bucket.num_bytes * (self._tp_size if bucket.gathered else 1) for bucket in buckets]

        def empty(size):
            return torch.empty(size, dtype=torch.uint8, device=self._device)

        self._buffers = [empty(max(sizes, default=0)) for _ in range(min(2, len(sizes)))]
        self._own_part = empty(max((bucket.num_bytes for bucket in buckets), default=0))

    def _send(self, bucket: Bucket, buffer: torch.Tensor) -> _Flight:
        """Pack and gather on the stage that holds the bucket, and start the broadcast to the others."""
        num_parts = self._tp_size if bucket.gathered else 1
        whole = buffer[: num_parts * bucket.num_bytes]
        if bucket.stage == self._stage:
            mine = self._own_part[: bucket.num_bytes] if num_parts > 1 else whole
            for piece in bucket.pieces:
                shard = self._parameters[piece.owned.rule.name].detach().contiguous().flatten().view(torch.uint8)
                mine[piece.offset : piece.offset + piece.size].copy_(shard[piece.start : piece.start + piece.size])
            if num_parts > 1:
                dist.all_gather_into_tensor(whole, mine, group=self._tp_group)
        work = None
        if self._pp_group:
            work = dist.broadcast(whole, group=self._pp_group, group_src=bucket.stage, async_op=True)
        return _Flight(bucket, whole.view(num_parts, bucket.num_bytes), work)

    def _unpack(self, flight: _Flight, halves: dict[str, list[torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        if flight.work is not None:
            flight.work.wait()
        for piece in flight.bucket.pieces:
            rule, dtype = piece.owned.rule, piece.owned.dtype
            parts = flight.parts[:, piece.offset : piece.offset + piece.size]
            if piece.start or not piece.is_last:
                if piece.start == 0:
                    total = piece.owned.shard_bytes(self._tp_size)
                    halves[rule.name] = [parts.new_empty(total) for _ in parts]
                for half, part in zip(halves[rule.name], parts, strict=True):
                    half[piece.start : piece.start + piece.size].copy_(part)
                if not piece.is_last:
                    continue
                parts = halves.pop(rule.name)
            shape = shard_shape(rule, self._tp_size)
            shards = [part.view(dtype).view(shape) for part in parts]
            yield from shards_to_hf(rule, shards).items()


def _by_rule(parameters: Mapping[str, torch.Tensor], info: ModelInfo, tp_size: int) -> dict[str, torch.Tensor]:
    """Parameters by canonical name."""
    if not parameters:
        raise ValueError("No parameters given: every pipeline stage holds some.")
    rules = match_rules(parameters, info, tp_size)
    return {rules[name].name: tensor for name, tensor in parameters.items()}
