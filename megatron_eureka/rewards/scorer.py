"""All rewards of a batch: accuracy, format, the user's own, and their weighted total."""

from __future__ import annotations

from typing import TYPE_CHECKING

from megatron_eureka.rewards.format import score_format
from megatron_eureka.rewards.pool import VerifierPool
from megatron_eureka.rewards.user import UserReward

if TYPE_CHECKING:
    from megatron_eureka.config.schema import Reward


class Scorer:
    """Scores responses with the options of the `reward` section.

    `counters` counts verifications over the time limit ("timeouts") and samples whose scoring raised ("errors") since
    the start; both score 0. Usable as a context manager; `close` ends the worker processes.
    """

    def __init__(self, options: Reward):
        self.options = options
        self._pool = VerifierPool(options.workers, options.timeout_s)
        self.counters = self._pool.counters
        limit = options.function_timeout_s
        self._users = [UserReward(reference, limit, self.counters) for reference in options.functions]

    def score(
        self, prompts: list[str], responses: list[str], labels: list[str], num_tokens: list[int] | None = None
    ) -> list[dict[str, float]]:
        """Rewards of each sample: accuracy (0 or 1), format (0 or 1), the user's components, and total.

        Args:
            num_tokens: [samples] lengths of the responses; the over-long penalty needs them.

        total = accuracy_weight x accuracy + format_weight x format + the sum of the user's components.
        """
        options = self.options
        pairs = list(zip(responses, labels, strict=True))
        distinct = list(dict.fromkeys(pairs))  # samples of a group often agree
        outcomes = self._pool.run([("score_accuracy", (*pair, options.compat)) for pair in distinct])
        accuracy = {
            pair: outcome.value if outcome.status == "ok" else 0.0
            for pair, outcome in zip(distinct, outcomes, strict=True)
        }
        users = [user.score(prompts, responses, labels) for user in self._users]
        components = {name: 0.0 for user in users for sample in user for name in sample}
        rewards = []
        for index, pair in enumerate(pairs):
            ours = {
                "accuracy": accuracy[pair],
                "format": score_format(pair[0], options.format_anchored, options.compat),
            }
            # a sample whose function raised lacks its components; they count 0
            theirs = components | {name: value for user in users for name, value in user[index].items()}
            total = options.accuracy_weight * ours["accuracy"] + options.format_weight * ours["format"]
            rewards.append({**ours, **theirs, "total": total + sum(theirs.values())})
        return rewards

    def check_label(self, label: str) -> str | None:
        """Why no answer could be verified against this label, or None; for loading data."""
        (outcome,) = self._pool.run([("check_label", (label, self.options.compat))])
        return outcome.value if outcome.status == "ok" else f"the label {label!r} cannot be verified: {outcome.value}"

    def close(self) -> None:
        """End the worker processes."""
        for owner in (self._pool, *self._users):
            owner.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
