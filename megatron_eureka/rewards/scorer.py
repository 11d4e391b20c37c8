"""All rewards of a batch: accuracy, format, length and repetition, the user's own, and their weighted total."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from megatron_eureka.rewards.ahead import Ahead, Pair
from megatron_eureka.rewards.format import score_format
from megatron_eureka.rewards.overlong import score_overlong
from megatron_eureka.rewards.pool import VerifierPool
from megatron_eureka.rewards.repetition import score_repetition
from megatron_eureka.rewards.service import RewardService
from megatron_eureka.rewards.user import UserReward

if TYPE_CHECKING:
    from megatron_eureka.config.schema import Reward


class Scorer:
    """Scores responses with the options of the `reward` section.

    Args:
        options: the section.
        max_response_tokens: the longest response that can be generated, where the over-long penalty is full.

    `counters` counts verifications over the time limit ("timeouts") and samples whose scoring raised ("errors") since
    the start; both score 0. Usable as a context manager; `close` ends the worker processes.
    """

    def __init__(self, options: Reward, max_response_tokens: int):
        self.options = options
        self._max_response_tokens = max_response_tokens
        self._pool = VerifierPool(options.workers, options.timeout_s)
        self.counters = self._pool.counters
        self._ahead = Ahead(self._verify)
        limit = options.function_timeout_s
        self._users: list[UserReward | RewardService] = [
            UserReward(reference, limit, self.counters) for reference in options.functions
        ]
        self._users += [
            RewardService(url, options.service_timeout_s, options.service_retries, self.counters)
            for url in options.services
        ]

    def begin(self, response: str, label: str) -> None:
        """Start verifying an answer that `score` will be asked for, beside whatever the caller does until then."""
        self._ahead.add((response, label))

    def score(
        self, prompts: list[str], responses: list[str], labels: list[str], num_tokens: list[int] | None = None
    ) -> list[dict[str, float]]:
        """Rewards of each sample: accuracy (0 or 1), format (0 or 1), penalties that are on, the user's, and total.

        Args:
            num_tokens: [samples] lengths of the responses; the over-long penalty needs them.

        total = accuracy_weight x accuracy + format_weight x format + the sum of all others.

        Raises:
            ValueError: a user's function or service returned something of a wrong form.
        """
        accuracy = self._accuracy(responses, labels)
        users = [user.score(prompts, responses, labels) for user in self._users]
        names = {name: 0.0 for user in users for sample in user for name in sample}
        rewards = []
        for index, response in enumerate(responses):
            ours = {
                "accuracy": accuracy[index],
                "format": score_format(response, self.options.format_anchored, self.options.compat),
            }
            others = self._penalties(response, num_tokens[index] if num_tokens else None)
            # a sample whose function raised lacks its components; they count 0
            others |= names | {name: value for user in users for name, value in user[index].items()}
            total = self.options.accuracy_weight * ours["accuracy"] + self.options.format_weight * ours["format"]
            rewards.append({**ours, **others, "total": total + sum(others.values())})
        return rewards

    def _accuracy(self, responses: list[str], labels: list[str]) -> list[float]:
        pairs = list(zip(responses, labels, strict=True))
        scores = self._ahead.take()
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in scores]  # samples of a group often agree
        scores |= zip(missing, self._verify(missing), strict=True)
        return [scores[pair] for pair in pairs]

    def _verify(self, pairs: Sequence[Pair]) -> list[float]:
        outcomes = self._pool.run([("score_accuracy", (*pair, self.options.compat)) for pair in pairs])
        return [outcome.value if outcome.status == "ok" else 0.0 for outcome in outcomes]

    def _penalties(self, response: str, num_tokens: int | None) -> dict[str, float]:
        overlong, repetition = self.options.overlong, self.options.repetition
        found = {}
        if overlong.penalty:
            assert num_tokens is not None, "the over-long penalty needs the lengths of the responses"
            limit = self._max_response_tokens
            found["overlong"] = score_overlong(num_tokens, limit, overlong.buffer_tokens, overlong.penalty)
        if repetition.penalty:
            found["repetition"] = score_repetition(response, repetition.ngram, repetition.penalty)
        return found

    def check_label(self, label: str) -> str | None:
        """Why no answer could be verified against this label, or None; for loading data."""
        (outcome,) = self._pool.run([("check_label", (label, self.options.compat))])
        return outcome.value if outcome.status == "ok" else f"the label {label!r} cannot be verified: {outcome.value}"

    def close(self) -> None:
        """End the worker processes."""
        for owner in (self._ahead, self._pool, *self._users):
            owner.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
