"""One list of prompts over the engines of a job: each engine draws its share, and its first rank has it scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch.distributed as dist

from megatron_eureka.engines.protocol import (
    GenerateRequest,
    Images,
    OnGroup,
    Pending,
    Rejection,
    SamplingOptions,
    Timer,
    Value,
)
from megatron_eureka.engines.travel import share
from megatron_eureka.types import Group, Prompt, Sample


class DealtEngine(ABC):
    """What engines share whose ranks are the job's: see `protocol.Engine` for what the methods promise.

    Every rank belongs to one of `num_engines` engines over consecutive ranks.

    Args:
        images: of the prompts that `sample` will be asked; None where they have none.
    """

    def __init__(self, engine_index: int, num_engines: int, images: Images | None = None) -> None:
        self.engine_index, self.num_engines, self.images = engine_index, num_engines, images

    @abstractmethod
    def generate(
        self,
        requests: Sequence[GenerateRequest],
        sampling: SamplingOptions,
        on_samples: Callable[[int, tuple[Sample, ...]], None] | None = None,
    ) -> list[tuple[Sample, ...] | Rejection]:
        """For each request to this rank's engine its samples, one a seed, in order; or why it was refused.

        Args:
            on_samples: told of each request that was not refused, by its index in `requests`, when its last sample is
                finished and others are being generated; it shall not wait.
        """

    def sample(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[tuple[int, ...]],
        sampling: SamplingOptions,
        on_group: OnGroup | None = None,
        *,
        timer: Timer = nullcontext,
        reject_broken: bool = False,
    ) -> list[Group | Rejection]:
        """A collective over the whole job: each engine draws its share, and its first rank has it scored."""
        mine = range(self.engine_index, len(prompts), self.num_engines)
        requests = {index: _request(prompts[index], self.images, seeds[index], reject_broken) for index in mine}
        asked = [index for index, request in requests.items() if not isinstance(request, Rejection)]
        pending: dict[int, Pending] = {}
        # the other ranks of an engine draw the same tokens
        leads = dist.get_rank() % (dist.get_world_size() // self.num_engines) == 0

        def score(number: int, samples: tuple[Sample, ...]) -> None:
            pending[asked[number]] = on_group(Group(prompts[asked[number]], samples))

        with timer("rollout"):
            on_samples = score if leads and on_group is not None else None
            drawn = self.generate([requests[index] for index in asked], sampling, on_samples)
        results = {**requests, **dict(zip(asked, drawn, strict=True))}
        with timer("reward"):  # of the last ones; the slowest engine's share of the waiting is in here
            for index, rewards in pending.items():
                pairs = zip(results[index], rewards.result(), strict=True)
                results[index] = tuple(replace(sample, rewards=found) for sample, found in pairs)
            everything = share(results if leads else {})
        found = (everything[index] for index in range(len(prompts)))
        return [
            result if isinstance(result, Rejection) else Group(prompt, result)
            for prompt, result in zip(prompts, found, strict=True)
        ]

    def gather(self, value: Value) -> list[Value]:
        """What each rank of the job says."""
        values = [value] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values


def _request(
    prompt: Prompt, images: Images | None, seeds: tuple[int, ...], reject_broken: bool
) -> GenerateRequest | Rejection:
    try:
        return GenerateRequest(prompt, tuple(images.image(key) for key in prompt.images), seeds)
    except ValueError as error:
        if reject_broken:
            return Rejection(prompt.id, f"{prompt.place}: {error}")
        raise ValueError(f"{prompt.place}: {error} (data.on_error = skip leaves such prompts out)") from error
