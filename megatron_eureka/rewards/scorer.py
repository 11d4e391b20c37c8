"""All rewards of a batch: accuracy, format, length and repetition, the user's own, and their weighted total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_eureka.rewards.components import Batch, Components
from megatron_eureka.rewards.failures import Failures
from megatron_eureka.rewards.format import score_format
from megatron_eureka.rewards.penalties import score_overlong, score_repetition
from megatron_eureka.rewards.pool import VerifierPool
from megatron_eureka.rewards.service import RewardService
from megatron_eureka.rewards.user import UserReward

if TYPE_CHECKING:
    from megatron_eureka.config.schema import Reward

Pair = tuple[str, str]  # response, label


@dataclass(frozen=True)
class PendingRewards:
    """Rewards that are being made."""

    accuracy: Future[list[float]]
    ours: list[Components]
    users: list[Future[list[Components]]]
    options: Reward

    def result(self) -> list[Components]:
        """The rewards of each sample (`Scorer.submit`); waits for them.

        Raises:
            ValueError: a user's function or service returned something of a wrong form.
            RuntimeError: the verifier does not start.
        """
        accuracies, users = self.accuracy.result(), [user.result() for user in self.users]
        names = {name: 0.0 for user in users for sample in user for name in sample}
        rewards = []
        for index, (accuracy, ours) in enumerate(zip(accuracies, self.ours, strict=True)):
            # a sample whose function raised lacks its components; they count 0
            others = ours | names | {name: value for user in users for name, value in user[index].items()}
            total = self.options.accuracy_weight * accuracy + self.options.format_weight * others["format"]
            total += sum(value for name, value in others.items() if name != "format")
            rewards.append({"accuracy": accuracy, **others, "total": total})
        return rewards


class Scorer:
    """Scores responses with the options of the `reward` section.

    Args:
        options: the section.
        max_response_tokens: the longest response that can be generated, where the over-long penalty is full.

    Usable as a context manager; `close` ends the processes and threads.
    """

    def __init__(self, options: Reward, max_response_tokens: int):
        self.options = options
        self._max_response_tokens = max_response_tokens
        self._pool = VerifierPool(options.workers, options.timeout_s, log_failures=False)
        self._failures = Failures("accuracy", "the verification of answers", ("accuracy",))
        self._users: list[UserReward | RewardService] = [
            UserReward(reference, options.function_timeout_s) for reference in options.functions
        ]
        self._users += [
            RewardService(url, options.service_timeout_s, options.service_retries, options.service_concurrency)
            for url in options.services
        ]

    @property
    def counters(self) -> dict[str, int]:
        """Samples since the start of which a verification or a user's reward ran out of time ("timeouts") or failed
        ("errors"); both score 0."""
        counted = Counter(self._pool.counters)
        for user in self._users:
            counted.update(user.failures.counters)
        return dict(counted)

    def take_failures(self) -> list[Failures]:
        """Of each source (the verification, functions, services), in this order, what failed since the last call.

        Call it when all results that were asked for are there.
        """
        return [failures.take() for failures in (self._failures, *(user.failures for user in self._users))]

    def submit(
        self, prompts: list[str], responses: list[str], labels: list[str], num_tokens: list[int] | None = None
    ) -> PendingRewards:
        """Start scoring samples, in a run the responses to one prompt, beside whatever the caller does until it asks
        for the result. User functions and services get them as one batch.

        Args:
            num_tokens: [samples] lengths of the responses; the over-long penalty needs them.

        Returns:
            whose `result()` has the rewards of each sample: accuracy (0 or 1), format (0 or 1), penalties that are on,
            the user's, and total = accuracy_weight x accuracy + format_weight x format + the sum of all others.
        """
        pairs = list(zip(responses, labels, strict=True))
        batch = Batch(prompts, responses, labels)
        users = [user.submit(batch) for user in self._users if responses]
        ours = [self._ours(response, num_tokens[i] if num_tokens else None) for i, response in enumerate(responses)]
        return PendingRewards(self._pool.submit(self._verify(pairs)), ours, users, self.options)

    def score(
        self, prompts: list[str], responses: list[str], labels: list[str], num_tokens: list[int] | None = None
    ) -> list[Components]:
        """`submit`, and wait for the result."""
        return self.submit(prompts, responses, labels, num_tokens).result()

    async def _verify(self, pairs: Sequence[Pair]) -> list[float]:
        """The accuracy of each pair; samples of a group often agree, and are verified once."""
        distinct = list(dict.fromkeys(pairs))
        calls = [("score_accuracy", (*pair, self.options.compat)) for pair in distinct]
        outcomes = dict(zip(distinct, await self._pool.call_all(calls), strict=True))
        self._failures.samples += len(pairs)
        for pair in pairs:
            if outcomes[pair].status != "ok":
                self._failures.lose(1, f"{outcomes[pair].value}, of an answer to the label {pair[1]!r:.80}")
        return [outcomes[pair].value if outcomes[pair].status == "ok" else 0.0 for pair in pairs]

    def _ours(self, response: str, num_tokens: int | None) -> Components:
        """What takes no time: format and penalties."""
        overlong, repetition = self.options.overlong, self.options.repetition
        found = {"format": score_format(response, self.options.format_anchored, self.options.compat)}
        if overlong.penalty:
            assert num_tokens is not None, "the over-long penalty needs the lengths of the responses"
            limit = self._max_response_tokens
            found["overlong"] = score_overlong(num_tokens, limit, overlong.buffer(limit), overlong.penalty)
        if repetition.penalty:
            found["repetition"] = score_repetition(response, repetition.ngram, repetition.penalty)
        return found

    def check_label(self, label: str) -> str | None:
        """Why no answer could be verified against this label, or None; for loading data."""
        (outcome,) = self._pool.run([("check_label", (label, self.options.compat))])
        return outcome.value if outcome.status == "ok" else f"the label {label!r} cannot be verified: {outcome.value}"

    def close(self) -> None:
        """End the processes and threads, also in the middle of their work."""
        for owner in (self._pool, *self._users):
            owner.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
