"""What a rollout engine takes, gives back and promises; the implementations share nothing else.

The order of a step, which an engine may rely on:

    engine.wake(("weights",))            # GPUs only: weights lie in memory again, the KV cache not yet
    engine.update_weights(source)        # all ranks together; the trainer off-loads afterwards
    engine.wake(("kv_cache",))
    results = engine.sample(prompts, seeds, sampling, on_group=score)
    engine.sleep()                       # GPUs only

Who leads an engine, which engine is asked for which prompt and how samples reach the other ranks is the engine's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from megatron_eureka.types import Group, ImageKey, Prompt

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from megatron_eureka.config.schema import Rollout


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
    def from_rollout(cls, rollout: Rollout, *, greedy: bool = False) -> SamplingOptions:
        """The run's sampling, or greedy decoding with the same limits for evaluation."""
        if greedy:
            return cls(temperature=0.0, max_tokens=rollout.max_response_tokens, stop=tuple(rollout.stop))
        return cls(rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_response_tokens, tuple(rollout.stop))


@dataclass(frozen=True)
class Rejection:
    """A prompt without samples: what the engine saw is not what the trainer would train on."""

    prompt_id: str
    reason: str  # with the engine's and the trainer's counts


class WeightSource(Protocol):
    """The trainer's weights as full Hugging Face tensors, made on all ranks together (see `bridge`)."""

    def stream(self, *, include_frozen: bool) -> Iterator[tuple[str, torch.Tensor]]: ...


class Images(Protocol):
    """Where resized images come from (`data.ImageStore`)."""

    def image(self, key: ImageKey) -> Image: ...


class Pending(Protocol):
    """Rewards that are being made."""

    def result(self) -> list[dict[str, float]]: ...


Timer = Callable[[str], AbstractContextManager]
OnGroup = Callable[[Group], Pending]
Value = TypeVar("Value")


class Engine(Protocol):
    """All rollout engines of a job; every rank of the job calls with the same arguments."""

    policy_version: int  # number of weight updates received; each sample says under which one it was drawn

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
        """For each prompt its samples, one a seed, or why it was refused; the same on every rank, but for texts.

        Texts are on rank 0 alone.

        Args:
            seeds: for each prompt one a response.
            on_group: called on one rank for each group when its last sample is finished and others are being
                generated; it shall not wait. What it returns gives the samples' rewards.
            timer: times what is under it, by name: "rollout" and "reward".
            reject_broken: reject a prompt whose image turns out to be broken when it is decoded.

        Raises:
            ValueError: an image is broken, with file and line of its prompt, unless `reject_broken`.
        """
        ...

    def gather(self, value: Value) -> list[Value]:
        """What each rank that may lead an engine says, such as how often its scorer failed; the same on every rank."""
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


def sampling_seed(run_seed: int, step: int, position: int, sample_index: int) -> int:
    """The seed of one response: a stable hash of what names it, in [0, 2^63).

    A resumed run or another number of engines draws the same responses.

    Args:
        position: of the prompt in the stream, counted over epochs, so that a prompt that comes twice is drawn anew.
    """
    text = f"{run_seed}/{step}/{position}/{sample_index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
