"""From groups of samples to the rows of an update, with the weight of each sample in the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from megatron_eureka.config.schema import Config
from megatron_eureka.data.packing import Item, pack, plan_rows, round_up, split_item
from megatron_eureka.rl.reductions import sample_weights
from megatron_eureka.train.policy import Policy
from megatron_eureka.train.sums import Sums
from megatron_eureka.train.train_row import TrainRow
from megatron_eureka.types import Group, ImageKey, MicroBatch, Sample


@dataclass(frozen=True)
class UpdateBatch:
    """One optimizer step's samples: all of them by number, and this replica's rows of them."""

    samples: tuple[Sample, ...]  # [samples of the global update]
    rows: tuple[TrainRow, ...]  # this replica's
    mismatch: Sums | None = None  # of engine and trainer over the job, once old log-probs are there

    @property
    def images(self) -> list[ImageKey]:
        """Of this replica's rows, as often as they stand there."""
        return [image for row in self.rows for image in row.micro_batch.images]

    def with_advantages(self, advantages: torch.Tensor) -> UpdateBatch:
        """The batch with an advantage at every target; [samples] float32."""
        return replace(self, rows=tuple(replace(row, advantages=advantages[row.sample_index]) for row in self.rows))


def cut_into_updates(groups: Sequence[Group], samples_per_update: int) -> list[list[Group]]:
    """Consecutive groups of `samples_per_update` samples each; the last update may have fewer, none is empty."""
    updates: list[list[Group]] = []
    room = 0
    for group in groups:
        if room < len(group.samples):
            updates.append([])
            room = max(samples_per_update, len(group.samples))
        updates[-1].append(group)
        room -= len(group.samples)
    return updates


def make_update(groups: Sequence[Group], config: Config, policy: Policy, policy_version: int = 0) -> UpdateBatch:
    """Loss weights and rows of one update.

    Args:
        policy_version: of the weights that the step starts from; samples of older ones are stale.
    """
    samples = tuple(sample for group in groups for sample in group.samples)
    num_tokens = [sample.num_trained for sample in samples]
    weights = sample_weights(config.algorithm.reduction, num_tokens, config.rollout.max_response_tokens)
    items, first = [], 0
    for group in groups:
        numbers = tuple(range(first, first + len(group.samples)))
        first += len(group.samples)
        items.append(Item(group.prompt, tuple(sample.token_ids for sample in group.samples), numbers))
    stale = torch.tensor([sample.policy_version < policy_version for sample in samples])
    packed = make_rows(items, config.train.max_tokens_per_microbatch, policy)
    rows = [_train_row(row, samples, torch.tensor(weights), stale) for row in packed]
    return UpdateBatch(samples, tuple(rows))


def _train_row(row: MicroBatch, samples: Sequence[Sample], weights: torch.Tensor, stale: torch.Tensor) -> TrainRow:
    """A packed row with what is known of its targets before any pass; weights and stale [samples]."""
    present = [samples[number] for number in row.sample_index.unique_consecutive().tolist()]
    masks = [sample.trained or (True,) * len(sample.token_ids) for sample in present]
    trained = torch.tensor([trained for mask in masks for trained in mask], dtype=torch.bool)
    return TrainRow(
        row,
        token_weights=weights[row.sample_index] * trained,
        engine_logprobs=torch.tensor([value for sample in present for value in sample.engine_logprobs]),
        stale=stale[row.sample_index],
    )


def make_rows(items: Sequence[Item], limit: int, policy: Policy) -> list[MicroBatch]:
    """This replica's rows of an update's items; all of one length where pipeline stages exchange them.

    Args:
        limit: tokens of a row (`train.max_tokens_per_microbatch`).
    """
    parts = [part for item in items for part in split_item(item, limit)]
    sizes = [part.num_tokens for part in parts]
    plan = plan_rows(sizes, limit, policy.layout.dp)
    mine = plan[policy.dp_rank]
    if policy.layout.vpp > 1:  # the interleaved schedule wants whole rounds over the stages
        mine = mine + [[]] * (round_up(len(mine), policy.layout.pp) - len(mine))
    lengths = [sum(sizes[item] for item in row) for row in mine]
    if policy.layout.pp > 1:
        lengths = [max(lengths)] * len(lengths)
    return [
        pack([parts[item] for item in row], round_up(max(1, length), policy.row_multiple), policy.info)
        for row, length in zip(mine, lengths, strict=True)
    ]
