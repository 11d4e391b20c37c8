"""Rewards that users bring: functions of a Python file, called with a whole batch."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

from megatron_eureka.log import logger

RewardFunction = Callable[[list[str], list[str], list[str]], dict[str, list[float]]]
RESERVED = ("accuracy", "format", "total")


def load_function(reference: str) -> RewardFunction:
    """The function behind `path/to/file.py:name`.

    Raises:
        ValueError: the reference has another form, or the file or the function is missing.
    """
    file, colon, name = reference.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise ValueError(f"reward.functions: {reference!r} is not of the form path/to/file.py:name.")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"reward.functions: {path} is missing. Paths start from the working directory.")
    spec = importlib.util.spec_from_file_location(f"user_reward_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"reward.functions: {path} has no function {name!r}.")
    return function


def call_function(
    function: RewardFunction, prompts: list[str], responses: list[str], labels: list[str], counters: dict[str, int]
) -> list[dict[str, float]]:
    """Call a user's reward on a batch; if it raises, on each sample alone, and those that raise score nothing.

    Raises:
        ValueError: a result of a wrong form, which no retry mends.
    """
    try:
        result = function(prompts, responses, labels)
    # Anything may go wrong in foreign code, and one sample must not stop a run.
    except Exception as error:
        if len(responses) == 1:
            counters["errors"] += 1
            logger.warning("Reward function raised and the sample scores 0: %s: %s", type(error).__name__, error)
            return [{}]
        singles = zip(prompts, responses, labels, strict=True)
        return [call_function(function, [p], [r], [a], counters)[0] for p, r, a in singles]
    _check(result, len(responses), getattr(function, "__name__", "reward function"))
    return [{name: float(values[index]) for name, values in result.items()} for index in range(len(responses))]


def _check(result: object, num_samples: int, name: str) -> None:
    if not isinstance(result, dict):
        raise ValueError(f"{name} returned {type(result).__name__}, expected a dict of lists of numbers.")
    for component, values in result.items():
        if component in RESERVED:
            raise ValueError(f"{name} returned {component!r}, which is reserved. Rename it; {RESERVED} are ours.")
        if len(values) != num_samples:
            raise ValueError(f"{name} returned {len(values)} values of {component!r} for {num_samples} samples.")
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"{name} returned a value of {component!r} that is not finite.")
