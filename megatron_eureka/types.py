"""Contracts between the rooms: frozen records, no behaviour beyond what follows from their fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ImageKey:
    """Names one resized image: the same content under the same pixel bounds has the same key."""

    digest: str  # SHA-256 of the encoded file's bytes, then of the pixel bounds, hex
    grid_thw: tuple[int, int, int]  # patches in time, height, width, before the spatial merge
    num_tokens: int  # placeholders that it takes in the expanded prompt


@dataclass(frozen=True)
class Prompt:
    """One question, tokenised once. Pixels are not here: they are in the image store under `images`."""

    id: str
    place: str  # where it was read, "file:line"
    messages: tuple[dict, ...]  # chat turns as read; image entries hold their source string
    answer: str  # the label that rewards compare with
    token_ids: tuple[int, ...]  # [prompt tokens], placeholders expanded: one for each visual token
    engine_token_ids: tuple[int, ...]  # the same with one placeholder an image, as vLLM wants them
    images: tuple[ImageKey, ...] = ()  # in the order of their placeholders

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


class FinishReason(StrEnum):
    """Why a response ended."""

    STOP = "stop"  # by an end token or a stop string
    LENGTH = "length"  # cut off at the limit


class VersionSpan(NamedTuple):
    """Tokens of a response from `start` on, up to the next span, were drawn under one policy."""

    start: int
    version: int  # number of weight updates the engine had received


@dataclass(frozen=True)
class Sample:
    """One response of the policy, as the engine made it."""

    token_ids: tuple[int, ...]  # [response tokens], the stop token included when there was one
    engine_logprobs: tuple[float, ...]  # [response tokens], after temperature; NaN for a token that it did not draw
    finish_reason: FinishReason
    versions: tuple[VersionSpan, ...]  # the first one starts at 0
    text: str = ""  # decoded response without special tokens; "" on ranks that neither score nor log it
    rewards: dict[str, float] = field(default_factory=dict)  # by component, and "total"
    trained: tuple[bool, ...] = ()  # [response tokens] that the loss counts; (): all of them

    @property
    def truncated(self) -> bool:
        return self.finish_reason == FinishReason.LENGTH

    @property
    def policy_version(self) -> int:
        """The oldest that drew a token of it."""
        return min(span.version for span in self.versions)

    @property
    def num_trained(self) -> int:
        return sum(self.trained) if self.trained else len(self.token_ids)


@dataclass(frozen=True)
class Group:
    """One prompt and its G samples."""

    prompt: Prompt
    samples: tuple[Sample, ...]  # [G]

    @property
    def policy_version(self) -> int:
        return min(sample.policy_version for sample in self.samples)


@dataclass(frozen=True)
class Segment:
    """Queries of a packed row and the keys they see.

    The keys are the concatenation of `key_ranges`; the last query sees the last key, and the mask between them is
    causal, aligned bottom-right: query i of n sees keys up to m - n + i of m.
    """

    start: int  # first query token in the row
    end: int  # one past the last
    key_ranges: tuple[tuple[int, int], ...]  # [start, end) of the row, in order; the last one ends at `end`

    @property
    def num_keys(self) -> int:
        return sum(end - start for start, end in self.key_ranges)


@dataclass(frozen=True)
class MicroBatch:
    """One packed row of tokens and everything a forward pass and its loss need.

    A group's prompt stands once in the row for all its responses: the prompt's segment is plain causal, each
    response's segment sees the prompt and itself. Position t of `predict_index` holds the token whose hidden state
    predicts `targets[t]`, so a prompt's last token appears there once for each response.
    """

    token_ids: torch.Tensor  # [tokens] int64, padded at the end
    positions: torch.Tensor  # [3, tokens] int64, M-RoPE positions (time, height, width), restarting at every prompt
    segments: tuple[Segment, ...]  # cover [0, tokens) in order, the padding as a segment of its own
    image_index: torch.Tensor  # [visual tokens] int64, rows of the stream that take image embeddings, in order
    images: tuple[ImageKey, ...]  # in the order of `image_index`
    predict_index: torch.Tensor  # [targets] int64
    targets: torch.Tensor  # [targets] int64, response tokens
    sample_index: torch.Tensor  # [targets] int64, which sample of the rank's update each target belongs to
    num_tokens: int  # without padding
