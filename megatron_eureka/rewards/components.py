"""What users' rewards get, a batch of samples, and what a sample's rewards are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
