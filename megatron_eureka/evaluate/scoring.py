"""Is the answer right? By rule, without a network, in the processes that training's rewards are verified in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from megatron_eureka.answers import read
from megatron_eureka.evaluate.item import BenchmarkItem
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
        outcomes = self._pool.run([self._call(item, response) for item, response in pairs])
        verdicts = []
        for (item, response), outcome in zip(pairs, outcomes, strict=True):
            if outcome.status == "ok" and not isinstance(outcome.value, float):
                verdicts.append(Verdict(*outcome.value))
            else:  # training's own score has no answer, and a failure neither
                right = outcome.status == "ok" and outcome.value == 1.0
                verdicts.append(Verdict(read(response, item.question).text, right))
        return verdicts

    def _call(self, item: BenchmarkItem, response: str) -> tuple[str, tuple]:
        if item.as_trained and self.compat != "none":
            return "score_accuracy", (response, item.gold[0], self.compat)
        return "judge_answer", (response, item.gold, asdict(item.question))

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def __enter__(self) -> AnswerScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
