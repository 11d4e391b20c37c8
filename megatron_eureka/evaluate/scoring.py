"""Is the answer right? By rule, without a network, in the processes that training's rewards are verified in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from megatron_eureka.answers import read
from megatron_eureka.datasets.benchmarks.item import BenchmarkItem
from megatron_eureka.rewards.pool import VerifierPool


@dataclass(frozen=True)
class Verdict:
    """What a response gives as its answer, and whether that is right."""

    extracted: str
    correct: bool


class AnswerScorer:
    """Scores responses by rule. `counters` has the comparisons over their time limit and those that failed; both
    count as unequal. Usable as a context manager; `close` ends the worker processes.

    Args:
        workers: processes; they start with the first response.
        timeout_s: of one response.
        compat: of the training reward, for questions in the training format.
    """

    def __init__(self, workers: int = 2, timeout_s: float = 5.0, compat: str = "none"):
        self.compat = compat
        self._pool = VerifierPool(workers, timeout_s)
        self.counters = self._pool.counters

    def score(self, pairs: Sequence[tuple[BenchmarkItem, str]]) -> list[Verdict]:
        """A verdict on each response."""
        outcomes = self._pool.run([("judge_answer", self._arguments(item, response)) for item, response in pairs])
        return [
            Verdict(*outcome.value) if outcome.status == "ok" else Verdict(read(response, item.question).text, False)
            for (item, response), outcome in zip(pairs, outcomes, strict=True)
        ]

    def _arguments(self, item: BenchmarkItem, response: str) -> tuple:
        return response, item.gold, asdict(item.question), self.compat if item.as_trained else "none"

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def __enter__(self) -> AnswerScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
