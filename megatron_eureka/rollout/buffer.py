"""Groups that wait for a step, as plain data: what a checkpoint may hold is read without running anything.

A checkpoint's plain objects are loaded with `torch.load(weights_only=True)`, which takes lists, tuples, dictionaries,
numbers, texts and tensors, and refuses every class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

import torch

from megatron_eureka.types import FinishReason, Group, ImageKey, Prompt, Sample, VersionSpan


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
    rest["finish_reason"] = sample.finish_reason.value
    rest["versions"] = [list(span) for span in sample.versions]
    rest["rewards"] = {name: float(value) for name, value in sample.rewards.items()}  # a user's may be numpy's
    return rest


def from_plain(stored: Iterable[dict[str, Any] | Group]) -> list[Group]:
    """The inverse of `to_plain`; groups as older checkpoints hold them become groups of today."""
    return [_group(_fields(group) if isinstance(group, Group) else group) for group in stored]


def _fields(group: Group) -> dict[str, Any]:
    """Of a group that was stored as an object of its class, whose fields were others."""
    return {"prompt": asdict(group.prompt), "samples": [dict(vars(sample)) for sample in group.samples]}


def _group(plain: dict[str, Any]) -> Group:
    images = tuple(ImageKey(**key) for key in plain["prompt"]["images"])
    samples = tuple(_sample(dict(sample)) for sample in plain["samples"])
    return Group(Prompt(**{**plain["prompt"], "images": images}), samples)


def _sample(plain: dict[str, Any]) -> Sample:
    spans = plain.pop("versions", None) or [(0, plain.pop("policy_version"))]  # of older checkpoints: one version
    return Sample(
        **{
            **plain,
            "token_ids": tuple(torch.as_tensor(plain["token_ids"]).tolist()),
            "engine_logprobs": tuple(torch.as_tensor(plain["engine_logprobs"], dtype=torch.float64).tolist()),
            "finish_reason": FinishReason(plain["finish_reason"]),
            "versions": tuple(VersionSpan(*span) for span in spans),
            "trained": tuple(plain.get("trained", ())),
        }
    )
