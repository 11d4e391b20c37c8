"""How samples travel from the ranks that lead engines to all others: numbers as flat tensors, texts to one rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist

from megatron_eureka.engines.protocol import Rejection
from megatron_eureka.parallel.groups import device
from megatron_eureka.types import FinishReason, Sample, VersionSpan

MAIN_RANK = 0  # which logs

Results = Mapping[int, tuple[Sample, ...] | Rejection]  # by the index of the prompt

_REASONS = tuple(FinishReason)


def share(mine: Results) -> dict[int, tuple[Sample, ...] | Rejection]:
    """Every rank's results on every rank; a collective over the job. Texts reach rank 0 alone.

    Log-probs travel as float32, which is what engines compute; rewards as float64.

    Args:
        mine: of the prompts that this rank answers for, with rewards; each index is one rank's.
    """
    rejected = {index: result for index, result in mine.items() if isinstance(result, Rejection)}
    samples = [(index, sample) for index, result in mine.items() if index not in rejected for sample in result]
    rejections = {index: (rejection.prompt_id, rejection.reason) for index, rejection in rejected.items()}
    names = tuple(dict.fromkeys(name for _, sample in samples for name in sample.rewards))
    texts: list[list[str]] | None = [[]] * dist.get_world_size() if dist.get_rank() == MAIN_RANK else None
    dist.gather_object([sample.text for _, sample in samples], texts, dst=MAIN_RANK)
    notes: list[tuple[tuple[str, ...], dict[int, tuple[str, str]]]] = [((), {})] * dist.get_world_size()
    dist.all_gather_object(notes, (names, rejections))  # a few words a rank
    integers = _gather([n for index, sample in samples for n in _integers(index, sample)], torch.int64)
    logprobs = _gather([value for _, sample in samples for value in sample.engine_logprobs], torch.float32)
    rewards = _gather([sample.rewards.get(name, 0.0) for _, sample in samples for name in names], torch.float64)
    found: dict[int, tuple[Sample, ...] | Rejection] = {}
    for rank, (rank_names, rank_rejections) in enumerate(notes):
        found |= {index: Rejection(*words) for index, words in rank_rejections.items()}
        rank_texts = texts[rank] if texts is not None else None
        for index, sample in _samples(integers[rank], logprobs[rank], rewards[rank], rank_names, rank_texts):
            found[index] = (*found.get(index, ()), sample)
    return found


def _integers(index: int, sample: Sample) -> list[int]:
    """A sample's integers: where it belongs, lengths, then spans, mask and tokens."""
    lengths = [len(sample.token_ids), len(sample.versions), len(sample.trained)]
    spans = [number for span in sample.versions for number in span]
    return [index, _REASONS.index(sample.finish_reason), *lengths, *spans, *sample.trained, *sample.token_ids]


def _samples(
    integers: list[int],
    logprobs: list[float],
    rewards: list[float],
    names: Sequence[str],
    texts: Sequence[str] | None,
) -> list[tuple[int, Sample]]:
    """The inverse, of one rank's samples."""
    found: list[tuple[int, Sample]] = []
    at = token = 0
    while at < len(integers):
        index, reason, *sizes = integers[at : at + 5]
        num_tokens, num_spans, num_trained = sizes
        ends = list(accumulate((2 * num_spans, num_trained, num_tokens), initial=at + 5))
        spans, trained, tokens = (integers[start:end] for start, end in zip(ends, ends[1:], strict=False))
        number = len(found)
        values = rewards[number * len(names) : (number + 1) * len(names)]
        sample = Sample(
            tuple(tokens),
            tuple(logprobs[token : token + num_tokens]),
            _REASONS[reason],
            tuple(VersionSpan(*span) for span in zip(spans[::2], spans[1::2], strict=True)),
            texts[number] if texts is not None else "",
            dict(zip(names, values, strict=True)),
            tuple(bool(flag) for flag in trained),
        )
        found.append((index, sample))
        at, token = ends[-1], token + num_tokens
    return found


def _gather(numbers: Sequence[float], dtype: torch.dtype) -> list[list]:
    """[ranks] the numbers of each, which may be of different lengths."""
    where, world = device(), dist.get_world_size()
    flat = torch.tensor(numbers, dtype=dtype)
    sizes = [torch.zeros(1, dtype=torch.int64, device=where) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([flat.numel()], device=where))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=dtype, device=where)
    padded[: flat.numel()] = flat.to(where)
    shares = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(shares, padded)
    return [share[: int(size)].tolist() for share, size in zip(shares, sizes, strict=True)]
