"""What was generated in a step, a response a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_eureka.files import new_file
from megatron_eureka.types import Group


def write_rollouts(file: Path, generated: Sequence[Group], trained: Sequence[Group], advantages: Sequence) -> None:
    """Write every generated response with its rewards, and the advantage of those that are trained on.

    Args:
        generated: in the step; groups that waited for it are written too, with those that it trains on.
        advantages: [samples of `trained`] numbers.
    """
    number = {id(sample): i for i, sample in enumerate(sample for group in trained for sample in group.samples)}
    with new_file(file, errors="backslashreplace") as lines:
        for group in {id(group): group for group in (*generated, *trained)}.values():
            for sample in group.samples:
                index = number.get(id(sample))
                record = {
                    "prompt_id": group.prompt.id,
                    "messages": without_data_uris(group.prompt.messages),
                    "answer": group.prompt.answer,
                    "response": sample.text,
                    "num_tokens": len(sample.token_ids),
                    "finish_reason": sample.finish_reason,
                    "policy_version": sample.policy_version,
                    "rewards": sample.rewards,
                    "advantage": None if index is None else float(advantages[index]),
                }
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def without_data_uris(value: Any) -> Any:
    """Chat turns as they were read, images that stand in them as data shortened to their beginning."""
    if isinstance(value, dict):
        return {key: without_data_uris(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_data_uris(item) for item in value]
    return f"{value[:40]}..." if isinstance(value, str) and value.startswith("data:") else value
