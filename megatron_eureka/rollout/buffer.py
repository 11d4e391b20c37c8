"""Groups that wait for a step, as plain data: what a checkpoint may hold is read without running anything.

A checkpoint's plain objects are loaded with `torch.load(weights_only=True)`, which takes lists, tuples, dictionaries,
numbers, texts and tensors, and refuses every class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

import torch

from megatron_eureka.types import Group, ImageKey, Prompt, Sample


def to_plain(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """The groups without any class of ours; the numbers of each token as tensors."""
    return [
        {"prompt": asdict(group.prompt), "samples": [_plain_sample(sample) for sample in group.samples]}
        for group in groups
    ]


def _plain_sample(sample: Sample) -> dict[str, Any]:
    rest = {field.name: getattr(sample, field.name) for field in fields(sample)}
    rest["token_ids"] = torch.tensor(sample.token_ids, dtype=torch.int64)
    rest["engine_logprobs"] = torch.tensor(sample.engine_logprobs, dtype=torch.float64)  # Python's floats, to the bit
    rest["rewards"] = {name: float(value) for name, value in sample.rewards.items()}  # a user's may be numpy's
    return rest


def from_plain(stored: Iterable[dict[str, Any] | Group]) -> list[Group]:
    """The inverse of `to_plain`; groups as older checkpoints hold them pass through."""
    return [group if isinstance(group, Group) else _group(group) for group in stored]


def _group(plain: dict[str, Any]) -> Group:
    images = tuple(ImageKey(**key) for key in plain["prompt"]["images"])
    samples = (
        Sample(
            **{
                **sample,
                "token_ids": tuple(sample["token_ids"].tolist()),
                "engine_logprobs": tuple(sample["engine_logprobs"].tolist()),
            }
        )
        for sample in plain["samples"]
    )
    return Group(Prompt(**{**plain["prompt"], "images": images}), tuple(samples))
