"""A step's numbers from its samples: ages, counts, advantages, and the alarm about engine and trainer."""

import logging

import pytest
import torch

from megatron_eureka.config.algorithm import Algorithm
from megatron_eureka.log import logger
from megatron_eureka.rl.step_advantages import StepAdvantages
from megatron_eureka.rollout.collect import Collected
from megatron_eureka.train.rollout_metrics import advantage_metrics, rollout_metrics, warn_of_mismatch
from megatron_eureka.types import FinishReason, Group, Prompt, Sample, VersionSpan


def group(version: int, rewards: list[float], lengths: list[int]) -> Group:
    """A prompt of three tokens; responses of five tokens were cut off."""
    samples = [
        Sample(
            (1,) * length,
            (),
            FinishReason.LENGTH if length == 5 else FinishReason.STOP,
            (VersionSpan(0, version),),
            "",
            {"accuracy": r, "total": 1.5 * r},
        )
        for r, length in zip(rewards, lengths, strict=True)
    ]
    return Group(Prompt("p", "", (), "", (1, 2, 3), (1, 2, 3)), tuple(samples))


def test_rewards_and_lengths_are_of_what_was_generated_and_ages_of_what_is_trained_on():
    old, fresh, dropped = group(2, [1, 0], [2, 4]), group(3, [1, 1], [1, 5]), group(3, [0, 0], [3, 5])
    counters = {"filter/kept": 1, "filter/dropped_hard": 1, "filter/buffer": 7, "rollout/rounds": 2}
    counters["rollout/prompts"] = 9
    collected = Collected((old, fresh), (fresh, dropped), counters, {"accuracy": 0.0, "short": 0.25})
    metrics = rollout_metrics(collected, policy_version=4)
    expected = {
        "reward/accuracy/mean": 0.5,  # two of four
        "reward/total/mean": 0.75,
        "reward/group_std/mean": 0.0,
        "response_length/mean": 3.5,  # 1, 5, 3, 5
        "response_length/max": 5.0,
        "response_length/clip_ratio": 0.5,
        "prompt_length/mean": 3.0,
        "filter/staleness/mean": 0.5,  # the step began with version 3: the groups are one and none behind
        "filter/staleness/max": 1.0,
        "filter/kept": 1.0,
        "filter/dropped_easy": 0.0,
        "filter/dropped_hard": 1.0,
        "filter/stale": 0.0,
        "filter/buffer": 7.0,
        "rollout/prompts": 9.0,
        "rollout/refused": 0.0,
        "rollout/rounds": 2.0,
        "reward/failed/accuracy": 0.0,
        "reward/failed/short": 0.25,
    }
    assert metrics == expected


def test_advantages_with_and_without_what_is_off():
    values = torch.tensor([1.0, -1.0, 0.0, 2.0])
    plain = advantage_metrics(StepAdvantages(values, torch.ones(2)), Algorithm())
    assert plain == {
        "advantage/mean": 0.5,
        "advantage/std": pytest.approx((5.0 / 3.0) ** 0.5),  # squares .25, 2.25, .25, 2.25 over three
        "advantage/zero_fraction": 0.25,
    }
    on = Algorithm.model_validate({"adora": {"enabled": True}})
    found = advantage_metrics(StepAdvantages(values, torch.tensor([0.1, 1.0]), torch.tensor([0.0, 0.2])), on)
    assert found["advantage/adora/weighted_down"] == 0.5
    assert found["reward/kl_penalty/mean"] == pytest.approx(0.1)


@pytest.mark.parametrize(("difference", "alarm"), [(0.004, 0.0), (0.01, 0.0), (0.02, 1.0)])
def test_a_mean_difference_over_the_alarm_is_said_and_noted(caplog, monkeypatch, difference, alarm):
    monkeypatch.setattr(logger, "propagate", True)
    metrics = {"rollout_corr/probs_diff_mean": difference}
    with caplog.at_level(logging.WARNING):
        warn_of_mismatch(metrics, 0.01)
    assert metrics["rollout_corr/alarm"] == alarm
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == alarm and all("0.0200" in text and "algorithm.correction.alarm = 0.01" in text for text in said)
