"""Cut a batch into packed rows: who trains what, in which micro-batch, and the tensors of one row.

Every rank computes the same plan from the same numbers (token counts), so nothing is negotiated. Inside a row the
prompt of a group stands once for all of its responses that are in the row.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.families import family_of
from megatron_eureka.types import MicroBatch, Prompt, Segment


@dataclass(frozen=True)
class Item:
    """A prompt with some of its responses: what must lie in one row."""

    prompt: Prompt
    responses: tuple[tuple[int, ...], ...]  # [responses][tokens]
    sample_ids: tuple[int, ...]  # [responses], numbers of these samples in the update

    @property
    def num_tokens(self) -> int:
        return self.prompt.num_tokens + sum(map(len, self.responses))


def split_item(item: Item, max_tokens: int) -> list[Item]:
    """Cut an item that exceeds the row budget into items of fewer responses, each with its own copy of the prompt.

    Raises:
        ValueError: the prompt with a single response is longer than the budget.
    """
    parts: list[Item] = []
    taken: list[int] = []
    used = item.prompt.num_tokens
    for index, response in enumerate(item.responses):
        alone = item.prompt.num_tokens + len(response)
        if alone > max_tokens:
            raise ValueError(
                f"Prompt {item.prompt.id!r} with one response has {alone} tokens, train.max_tokens_per_microbatch is "
                f"{max_tokens}. Raise it to at least {alone}, or lower rollout.max_response_tokens."
            )
        if taken and used + len(response) > max_tokens:
            parts.append(_take(item, taken))
            taken, used = [], item.prompt.num_tokens
        taken.append(index)
        used += len(response)
    parts.append(_take(item, taken))
    return parts


def _take(item: Item, indices: list[int]) -> Item:
    return Item(item.prompt, tuple(item.responses[i] for i in indices), tuple(item.sample_ids[i] for i in indices))


def plan_rows(num_tokens: Sequence[int], max_tokens: int, num_replicas: int) -> list[list[list[int]]]:
    """Spread items over data-parallel replicas and rows.

    Longest first, to the replica with the fewest tokens so far; inside a replica, longest first into the first row
    with room. All replicas get the same number of rows, the missing ones empty.

    Args:
        num_tokens: [items], each at most `max_tokens`.

    Returns:
        [replicas][rows][items of the row], the same on every rank.
    """
    order = sorted(range(len(num_tokens)), key=lambda item: (-num_tokens[item], item))
    replicas: list[list[int]] = [[] for _ in range(num_replicas)]
    load = [(0, replica) for replica in range(num_replicas)]  # a heap
    for item in order:
        tokens, lightest = load[0]
        replicas[lightest].append(item)
        heapq.heapreplace(load, (tokens + num_tokens[item], lightest))
    plans = [_first_fit(items, num_tokens, max_tokens) for items in replicas]
    longest = max(1, *(len(plan) for plan in plans))
    return [plan + [[] for _ in range(longest - len(plan))] for plan in plans]


def _first_fit(items: list[int], num_tokens: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Each item into the first row with room for it, found in a tree of the most room below each node."""
    num_rows = 1 << len(items).bit_length()  # one an item, and a power of two
    room = [max_tokens] * (2 * num_rows)  # node n has the children 2n and 2n + 1; the last `num_rows` are the rows
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    for item in items:
        node = 1
        while node < num_rows:
            node = 2 * node if room[2 * node] >= num_tokens[item] else 2 * node + 1
        rows[node - num_rows].append(item)
        room[node] -= num_tokens[item]
        while node := node // 2:
            room[node] = max(room[2 * node], room[2 * node + 1])
    return [row for row in rows if row]


def pack(items: Sequence[Item], length: int, info: ModelInfo) -> MicroBatch:
    """Build one row of `length` tokens from items that fit into it; what is left is padding that sees only itself.

    Args:
        info: of the model, which says where its tokens are and which of them are images.
    """
    positions_of, image_token_id = family_of(info).named("positions"), info.image_token_id
    tokens: list[int] = []
    positions: list[torch.Tensor] = []
    segments: list[Segment] = []
    image_index: list[int] = []
    predict, targets, samples, images = [], [], [], []
    for item in items:
        start, grids = len(tokens), [image.grid_thw for image in item.prompt.images]
        prompt_positions, next_position = positions_of(item.prompt.token_ids, grids, info)
        tokens.extend(item.prompt.token_ids)
        positions.append(prompt_positions)
        prompt_end = len(tokens)
        segments.append(Segment(start, prompt_end, ((start, prompt_end),)))
        image_index.extend(start + i for i, token in enumerate(item.prompt.token_ids) if token == image_token_id)
        images.extend(item.prompt.images)
        for sample, response in zip(item.sample_ids, item.responses, strict=True):
            if not response:
                continue
            first, end = len(tokens), len(tokens) + len(response)
            tokens.extend(response)
            positions.append(torch.arange(next_position, next_position + len(response)).expand(3, -1))
            segments.append(Segment(first, end, ((start, prompt_end), (first, end))))
            predict.extend([prompt_end - 1, *range(first, end - 1)])
            targets.extend(response)
            samples.extend([sample] * len(response))
    used = len(tokens)
    if used > length:
        raise ValueError(f"The items of a row have {used} tokens, the row only {length}.")
    if used < length:
        segments.append(Segment(used, length, ((used, length),)))
        tokens.extend([0] * (length - used))
        positions.append(torch.zeros(3, length - used, dtype=torch.int64))

    def as_tensor(numbers):
        return torch.tensor(numbers, dtype=torch.int64)

    return MicroBatch(
        token_ids=as_tensor(tokens),
        positions=torch.cat(positions, dim=1),
        segments=tuple(segments),
        image_index=as_tensor(image_index),
        images=tuple(images),
        predict_index=as_tensor(predict),
        targets=as_tensor(targets),
        sample_index=as_tensor(samples),
        num_tokens=used,
    )


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below `number`."""
    return -(-number // multiple) * multiple
