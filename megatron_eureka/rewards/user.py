"""Rewards that users bring: functions of a Python file, called with a whole batch in a process that can be killed."""

from __future__ import annotations

import ast
from pathlib import Path

from megatron_eureka.log import logger
from megatron_eureka.rewards.components import by_sample, check_components
from megatron_eureka.rewards.pool import Outcome, VerifierPool

MAX_TIMEOUTS = 3  # of single samples, after which the rest of a batch is not tried


class UserReward:
    """The function behind `path/to/file.py:name`: (prompts, responses, labels) -> {component: [a number a sample]}.

    A call that raises or runs past its time is repeated sample by sample; the samples that fail again score nothing
    for this function and are counted. Close it, or use the scorer that owns it, to end its process.

    Raises:
        ValueError: the reference has another form, the file cannot be read, or the function is missing.
    """

    def __init__(self, reference: str, timeout_s: float, counters: dict[str, int]):
        file, colon, self.name = reference.rpartition(":")
        if not colon or not file.endswith(".py"):
            raise ValueError(f"reward.functions: {reference!r} is not of the form path/to/file.py:name.")
        _check_defines(Path(file), self.name)
        self.counters = counters
        self._pool = VerifierPool(1, timeout_s, Path(file).resolve(), memory_bytes=0)

    def score(self, prompts: list[str], responses: list[str], labels: list[str]) -> list[dict[str, float]]:
        """Components of each sample; empty for those on which the function failed.

        Raises:
            ValueError: a result of a wrong form, which no retry mends.
        """
        if not responses:
            return []
        (outcome,) = self._call(prompts, responses, labels)
        if outcome.status == "ok":
            return self._by_sample(outcome.value, len(responses))
        scores, timeouts = [], 0
        for sample in zip(prompts, responses, labels, strict=True):
            outcome = Outcome("timeout") if timeouts == MAX_TIMEOUTS else self._call(*([text] for text in sample))[0]
            timeouts += outcome.status == "timeout" and timeouts < MAX_TIMEOUTS
            scores += self._by_sample(outcome.value, 1) if outcome.status == "ok" else [self._failed(outcome)]
        return scores

    def close(self) -> None:
        """End the worker process."""
        self._pool.close()

    def _call(self, prompts: list[str], responses: list[str], labels: list[str]) -> list[Outcome]:
        return self._pool.run([(self.name, (prompts, responses, labels))])

    def _failed(self, outcome: Outcome) -> dict[str, float]:
        self.counters["timeouts" if outcome.status == "timeout" else "errors"] += 1
        logger.warning(
            "Reward function %s failed and the sample scores 0: %s", self.name, outcome.value or "time limit"
        )
        return {}

    def _by_sample(self, result: object, num_samples: int) -> list[dict[str, float]]:
        check_components(result, num_samples, self.name)
        scores = by_sample(result, num_samples)
        for score in scores:
            if len(score) < len(result):
                self.counters["errors"] += 1
                logger.warning("Reward function %s returned no finite number for a sample, which scores 0", self.name)
        return scores


def _check_defines(path: Path, name: str) -> None:
    """Look for the function without running the file: it runs in the worker alone."""
    if not path.is_file():
        raise ValueError(f"reward.functions: {path} is missing. Paths start from the working directory.")
    try:
        body = ast.parse(path.read_text("utf-8")).body
    except SyntaxError as error:
        raise ValueError(f"reward.functions: {path} is not valid Python: {error}") from error
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {
        target.id
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if name not in names:
        raise ValueError(f"reward.functions: {path} has no function {name!r}.")
