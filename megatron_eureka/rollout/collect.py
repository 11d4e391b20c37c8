"""Fill a step's batch: generate over all engines, score, filter, and generate again until there is enough."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from megatron_eureka.config.schema import Config
from megatron_eureka.data.stream import PromptStream
from megatron_eureka.engines.protocol import Engine, Pending, Rejection, SamplingOptions, Timer, sampling_seed
from megatron_eureka.log import logger
from megatron_eureka.rl.filters import verdict
from megatron_eureka.rollout.buffer import from_plain, to_plain
from megatron_eureka.rollout.failures import Failing, reported_failures
from megatron_eureka.rollout.truncation import treatment
from megatron_eureka.types import Group, Prompt, Sample

REFILL_MARGIN = 1.25  # drawn for a refill, over what the keep rate says: a further round costs another longest response


class Scores(Failing, Protocol):
    """What scores the responses to a prompt (`rewards.Scorer`)."""

    def submit(self, prompts: list[str], responses: list[str], labels: list[str], num_tokens: list[int]) -> Pending: ...


@dataclass(frozen=True)
class Collected:
    """A step's groups and what happened on the way to them."""

    groups: tuple[Group, ...]  # what the step trains on
    generated: tuple[Group, ...]  # all that was generated in the step, for metrics and the log
    counters: dict[str, int] = field(default_factory=dict)  # filter/*, rollout/*
    failed: dict[str, float] = field(default_factory=dict)  # source of rewards -> share of samples that it failed on


def submit(scorer: Scores, group: Group) -> Pending:
    """Start scoring a group."""
    texts, labels = [_question(group.prompt)] * len(group.samples), [group.prompt.answer] * len(group.samples)
    lengths = [len(sample.token_ids) for sample in group.samples]
    return scorer.submit(texts, [sample.text for sample in group.samples], labels, lengths)


def _question(prompt: Prompt) -> str:
    """The text of the last user turn, which user reward functions get as the prompt."""
    content = next((turn["content"] for turn in reversed(prompt.messages) if turn["role"] == "user"), "")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


class Collector:
    """Fills batches from a stream of prompts; what it holds between steps is part of a checkpoint.

    Args:
        end_token_id: what truncated responses end with where `algorithm.truncated` is "overwrite".
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        scorer: Scores,
        prompts: Sequence[Prompt],
        stream: PromptStream,
        timer: Timer = nullcontext,
        end_token_id: int | None = None,
    ):
        self.end_token_id = end_token_id
        self.config, self.engine, self.scorer = config, engine, scorer
        self.prompts, self.stream, self.timer = prompts, stream, timer
        self.surplus: list[Group] = []  # groups that passed the filter and found no place yet

    def collect(self, step: int) -> Collected:
        """The groups of a step, the same on every rank.

        Raises:
            RuntimeError: a source of rewards failed on every sample (`reward.on_failure`), or
                `algorithm.filter.max_rounds` rounds in a row left nothing to train on.
        """
        options, wanted = self.config.algorithm.filter, self.config.rollout.prompts_per_step
        counters: Counter[str] = Counter()
        self.scorer.take_failures()  # those of an evaluation in between
        kept, generated = self._fresh_surplus(counters), []
        for round_number in range(options.max_rounds):
            missing = wanted - len(kept)
            if missing <= 0 or (kept and round_number and not options.refill):
                break
            groups = self._round(step, round_number, self._num_prompts(missing, counters), counters)
            generated += groups
            kept += self._filtered(groups, counters)
        failed = reported_failures(self.engine.gather(self.scorer.take_failures()), step, self.config.reward.on_failure)
        if not kept:
            raise RuntimeError(self._nothing_left(step, counters))
        self.surplus = kept[wanted:]
        counters["filter/buffer"] = len(self.surplus)
        return Collected(tuple(kept[:wanted]), tuple(generated), dict(counters), failed)

    def _fresh_surplus(self, counters: Counter[str]) -> list[Group]:
        oldest = self.engine.policy_version - self.config.algorithm.filter.max_staleness
        fresh = [group for group in self.surplus if group.policy_version >= oldest]
        counters["filter/stale"] = len(self.surplus) - len(fresh)
        return fresh

    def _num_prompts(self, missing: int, counters: Counter[str]) -> int:
        """Prompts of a round: in the first one as many as are missing, later by the step's own keep rate.

        Whole rounds would leave a surplus, which the next step trains on although an older policy drew it.
        """
        drawn, kept = counters["rollout/prompts"], counters["filter/kept"]
        if not drawn:
            return missing
        most = self.config.rollout.prompts_per_step
        return min(most, math.ceil(REFILL_MARGIN * missing * drawn / kept)) if kept else most

    def _round(self, step: int, round_number: int, num_prompts: int, counters: Counter[str]) -> list[Group]:
        rollout, seed = self.config.rollout, self.config.train.seed
        # The place in the stream names a draw; a prompt's index would give two draws in one step the same seeds.
        first = self.stream.epoch * self.stream.num_prompts + self.stream.position
        draws = list(enumerate(self.stream.take(num_prompts), first))
        seeds = [
            tuple(sampling_seed(seed, step, place, sample) for sample in range(rollout.samples_per_prompt))
            for place, _ in draws
        ]
        prompts = [self.prompts[index] for _, index in draws]
        results = self.engine.sample(
            prompts,
            seeds,
            SamplingOptions.from_rollout(self.config.rollout),
            partial(submit, self.scorer),
            timer=self.timer,
            reject_broken=self.config.data.on_error == "skip",
        )
        for rejection in (result for result in results if isinstance(result, Rejection)):
            counters["rollout/refused"] += 1
            logger.warning("step %d: prompt %s was refused: %s", step, rejection.prompt_id, rejection.reason)
        groups = [self._judged(result) for result in results if isinstance(result, Group)]
        counters["rollout/rounds"] += 1
        counters["rollout/prompts"] += len(prompts)
        return shuffled_rewards(groups, (seed, step, round_number)) if self.config.reward.shuffle else groups

    def _judged(self, group: Group) -> Group:
        """The group with its truncated samples treated as `algorithm.truncated` says."""
        treat = treatment(self.config.algorithm.truncated, self.end_token_id)
        return replace(group, samples=tuple(treat(sample) if sample.truncated else sample for sample in group.samples))

    def _filtered(self, groups: list[Group], counters: Counter[str]) -> list[Group]:
        options = self.config.algorithm.filter
        names = {"kept": "filter/kept", "easy": "filter/dropped_easy", "hard": "filter/dropped_hard"}
        kept = []
        for group in groups:
            accuracies = [sample.rewards["accuracy"] for sample in group.samples]
            outcome = verdict(accuracies, options.lower, options.upper) if options.enabled else "kept"
            counters[names[outcome]] += 1
            if outcome == "kept":
                kept.append(group)
        return kept

    def _nothing_left(self, step: int, counters: Counter[str]) -> str:
        options = self.config.algorithm.filter
        return (
            f"Step {step}: none of {counters['rollout/prompts']} groups in {counters['rollout/rounds']} rounds can be "
            f"trained on: {counters['filter/dropped_hard']} were below algorithm.filter.lower {options.lower}, "
            f"{counters['filter/dropped_easy']} above algorithm.filter.upper {options.upper}, "
            f"{counters['rollout/refused']} were refused by the engine. Check the rewards, or widen the "
            "bounds."
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain objects: the place in the stream and the surplus groups."""
        return {"stream": self.stream.state_dict(), "surplus": to_plain(self.surplus)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another collector over the same data was."""
        self.stream.load_state_dict(state["stream"])
        self.surplus = [self._judged(group) for group in from_plain(state["surplus"])]  # of older runs it was not


def shuffled_rewards(groups: list[Group], seed: tuple[int, ...]) -> list[Group]:
    """The control experiment: every sample gets the rewards of a random one of the whole batch."""
    samples: list[Sample] = [sample for group in groups for sample in group.samples]
    order = iter(np.random.default_rng(seed).permutation(len(samples)))
    return [
        replace(group, samples=tuple(replace(sample, rewards=samples[next(order)].rewards) for sample in group.samples))
        for group in groups
    ]
