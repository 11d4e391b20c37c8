"""Greedy accuracy and format rate of the policy on held-out prompts, through the same engines as training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megatron_eureka.config.schema import Config
from megatron_eureka.engines.protocol import Engine, Rejection, SamplingOptions
from megatron_eureka.evaluate.intervals import wilson
from megatron_eureka.files import write_atomically
from megatron_eureka.rollout.collect import Scores, submit
from megatron_eureka.types import Prompt


@dataclass(frozen=True)
class Item:
    """One held-out prompt and the greedy answer to it."""

    id: str
    response: str
    answer: str  # the label
    accuracy: float
    format: float


@dataclass(frozen=True)
class Evaluation:
    """All items of an evaluation; a refused prompt counts as wrong."""

    items: tuple[Item, ...]
    num_rejected: int = 0

    def rate(self, name: str) -> float:
        """Mean of "accuracy" or "format"."""
        return sum(getattr(item, name) for item in self.items) / len(self.items)

    def interval(self, name: str) -> tuple[float, float]:
        """95 % interval of that rate."""
        return wilson(round(sum(getattr(item, name) for item in self.items)), len(self.items))

    def metrics(self) -> dict[str, float]:
        """For metrics.jsonl."""
        rates = {f"evaluation/{name}": self.rate(name) for name in ("accuracy", "format")}
        return {**rates, "evaluation/refused": float(self.num_rejected)}

    def write(self, path: Path) -> None:
        """One JSON line an item."""
        lines = "".join(json.dumps(vars(item), ensure_ascii=False) + "\n" for item in self.items)
        write_atomically(path, lines, errors="replace")

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """The items that `write` wrote. Lines end at newlines alone: a response may hold other separators."""
        with open(path, encoding="utf-8", newline="\n") as file:
            return cls(tuple(Item(**json.loads(line)) for line in file))


def evaluate(config: Config, engine: Engine, scorer: Scores, prompts: Sequence[Prompt]) -> Evaluation:
    """Answer every prompt once, greedily, and score it; a collective over the whole job.

    Returns:
        the items in the order of the prompts, the same on every rank but for responses, which rank 0 alone has.
    """
    sampling = SamplingOptions.from_rollout(config.rollout, greedy=True)
    reject_broken = config.data.on_error == "skip"
    seeds = [(0,)] * len(prompts)
    results = engine.sample(prompts, seeds, sampling, partial(submit, scorer), reject_broken=reject_broken)
    items = []
    for prompt, result in zip(prompts, results, strict=True):
        if isinstance(result, Rejection):
            items.append(Item(prompt.id, "", prompt.answer, 0.0, 0.0))
        else:
            sample = result.samples[0]
            rewards = sample.rewards
            items.append(Item(prompt.id, sample.text, prompt.answer, rewards["accuracy"], rewards["format"]))
    return Evaluation(tuple(items), sum(isinstance(result, Rejection) for result in results))
