"""What users' rewards get, a batch of samples, and what they return: {component: [a number a sample]}."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

RESERVED = ("accuracy", "format", "overlong", "repetition", "total")

Components = dict[str, float]  # of one sample


@dataclass(frozen=True)
class Batch:
    """What one call is about; in a run the responses to one prompt, which then stands once a response."""

    prompts: list[str]
    responses: list[str]
    labels: list[str]

    def samples(self) -> Iterator[Batch]:
        """Each sample as a batch of its own."""
        for prompt, response, label in zip(self.prompts, self.responses, self.labels, strict=True):
            yield Batch([prompt], [response], [label])


def check_components(result: object, num_samples: int, name: str) -> None:
    """Refuse a result of another form.

    Args:
        result: what came back.
        num_samples: length that each list must have.
        name: who returned it, for the message.

    Raises:
        ValueError: no dict, a reserved name, or no list of num_samples values.
    """
    if not isinstance(result, dict):
        raise ValueError(f"{name} returned {type(result).__name__}, expected a dict of lists of numbers.")
    for component, values in result.items():
        if component in RESERVED:
            raise ValueError(f"{name} returned {component!r}, which is reserved. Rename it; {RESERVED} are ours.")
        if not isinstance(values, list) or len(values) != num_samples:
            got = f"{len(values)} values" if isinstance(values, list) else type(values).__name__
            raise ValueError(f"{name} returned {got} of {component!r} for {num_samples} samples; give a list.")


def by_sample(result: dict[str, list], num_samples: int) -> list[Components]:
    """The finite numbers of each sample; a component without one is left out there."""
    return [
        {name: float(values[index]) for name, values in result.items() if _is_finite(values[index])}
        for index in range(num_samples)
    ]


def _is_finite(value: object) -> bool:
    if not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False
