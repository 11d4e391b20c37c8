"""The model that a run started from, for KL terms: its trainable weights on the host, put in place for a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from megatron_eureka.train.policy import Policy


class ReferencePolicy:
    """A copy of this rank's trainable weights as they are now; make it before a run is resumed.

    It costs their size in host memory (twice while in place) and two copies a step, and no GPU memory. Frozen weights
    are the policy's own.
    """

    def __init__(self, policy: Policy):
        self._policy = policy
        self._weights = self._snapshot()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Passes inside run under the reference's weights; the policy's are back afterwards, to the bit."""
        current = self._snapshot()
        self._put(self._weights)
        try:
            yield
        finally:
            self._put(current)

    def _snapshot(self) -> dict[str, torch.Tensor]:
        weights = self._policy.weights()
        return {name: value.detach().to("cpu", copy=True) for name, value in weights.items() if value.requires_grad}

    @torch.no_grad()
    def _put(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._policy.weights().items():
            if name in weights:
                parameter.copy_(weights[name])
