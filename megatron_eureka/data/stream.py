"""Which prompt comes next: epochs of shuffled indices, resumable to the exact position."""

from __future__ import annotations

from typing import Any

import numpy as np


class PromptStream:
    """An endless sequence of prompt indices, the same on every rank.

    Every epoch holds each index once. The order of an epoch follows from the seed and its number alone, so the state
    is two numbers.
    """

    def __init__(self, num_prompts: int, seed: int, shuffle: bool = True):
        if num_prompts < 1:
            raise ValueError("There are no prompts. Check data.train and what was skipped while loading.")
        self.num_prompts = num_prompts
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.position = 0  # indices of this epoch that were given out
        self._order = self._epoch_order(0)

    def take(self, num: int) -> list[int]:
        """The next `num` indices; an epoch's end may lie between them."""
        taken: list[int] = []
        while len(taken) < num:
            if self.position == self.num_prompts:
                self.epoch += 1
                self.position = 0
                self._order = self._epoch_order(self.epoch)
            end = min(self.num_prompts, self.position + num - len(taken))
            taken += self._order[self.position : end]
            self.position = end
        return taken

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here; JSON-ready."""
        return {name: getattr(self, name) for name in ("epoch", "position", "num_prompts", "seed", "shuffle")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another stream over the same data was.

        Raises:
            ValueError: the other stream had another number of prompts, seed or shuffling.
        """
        for name in ("num_prompts", "seed", "shuffle"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"The checkpoint's data position is for {name} = {state[name]}, this run has "
                    f"{getattr(self, name)}. Resume with the same data and seed, or start a new run."
                )
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._epoch_order(self.epoch)

    def _epoch_order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.num_prompts))
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_prompts).tolist()
