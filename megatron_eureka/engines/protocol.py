"""What a rollout engine takes, gives back and promises; the implementations share nothing else.

The order of a step, which an engine may rely on:

    engine.wake(("weights",))            # GPUs only: weights lie in memory again, the KV cache not yet
    engine.update_weights(source)        # all ranks together; the trainer off-loads afterwards
    engine.wake(("kv_cache",))
    results = engine.generate(requests, sampling)
    engine.sleep()                       # GPUs only
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from megatron_eureka.types import Prompt, Sample

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from megatron_eureka.config.schema import Config


@dataclass(frozen=True)
class GenerateRequest:
    """One prompt and the seeds of the responses wanted for it."""

    prompt: Prompt
    images: tuple[Image, ...]  # resized already, in the order of their placeholders
    seeds: tuple[int, ...]  # one a response, see `sampling_seed`


@dataclass(frozen=True)
class SamplingOptions:
    """How responses are drawn. Log-probs are those of the distribution that is drawn from."""

    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0  # below 1 the log-probs are those within the nucleus
    top_k: int = -1
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()  # strings that end a response, besides the model's end tokens; kept in the text

    @classmethod
    def from_config(cls, config: Config, *, greedy: bool = False) -> SamplingOptions:
        """The run's sampling, or greedy decoding with the same limits for evaluation."""
        rollout = config.rollout
        if greedy:
            return cls(temperature=0.0, max_tokens=rollout.max_response_tokens, stop=tuple(rollout.stop))
        return cls(rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_response_tokens, tuple(rollout.stop))


@dataclass(frozen=True)
class Refusal:
    """A prompt without samples: what the engine saw is not what the trainer would train on."""

    prompt_id: str
    reason: str  # with the engine's and the trainer's counts


class WeightSource(Protocol):
    """The trainer's weights as full Hugging Face tensors, made on all ranks together (see `bridge`)."""

    def stream(self, *, include_frozen: bool) -> Iterator[tuple[str, torch.Tensor]]: ...


class Engine(Protocol):
    """A rollout engine, called on every rank that it spans with the same arguments."""

    engine_index: int  # which engine this rank belongs to
    num_engines: int
    policy_version: int  # number of weight updates received; each sample carries it

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        sampling: SamplingOptions,
        on_samples: Callable[[int, tuple[Sample, ...]], None] | None = None,
    ) -> list[tuple[Sample, ...] | Refusal]:
        """For each request its samples, one a seed, in order; or why it was refused.

        Args:
            on_samples: told of each request that was not refused, by its place in `requests`, when its last sample is
                finished and others are being generated; it shall not wait.
        """
        ...

    def update_weights(self, source: WeightSource, version: int | None = None) -> None:
        """Take the trainer's weights. Called on all ranks of the job together."""
        ...

    def sleep(self) -> None:
        """Give GPU memory to the trainer."""
        ...

    def wake(self, tags: tuple[str, ...]) -> None:
        """Take GPU memory back: "weights" before an update, "kv_cache" after it."""
        ...


def sampling_seed(run_seed: int, step: int, place: int, sample_index: int) -> int:
    """The seed of one response: a stable hash of what names it, in [0, 2^63).

    A resumed run or another number of engines draws the same responses.

    Args:
        place: of the prompt in the stream, counted over epochs, so that a prompt that comes twice is drawn anew.
    """
    text = f"{run_seed}/{step}/{place}/{sample_index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
