"""Failing rewards over a job: one warning a step, shares for the metrics, and a stop on every rank."""

import logging

import pytest

from megatron_eureka.config.schema import Config
from megatron_eureka.data.stream import PromptStream
from megatron_eureka.log import logger
from megatron_eureka.rewards.failures import Failures
from megatron_eureka.rewards.scorer import Scorer
from megatron_eureka.rollout.collect import Collector
from megatron_eureka.rollout.failures import reported_failures
from tests.ranks import run_ranks
from tests.rollout.fakes import RecordingEngine, prompt


class Notes(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def reported(rank, of_ranks, on_failure="stop"):
    """(shares or the error's text, what was logged)"""
    notes = Notes()
    logger.addHandler(notes)
    try:
        return reported_failures(of_ranks, 3, on_failure), notes.texts
    except RuntimeError as error:
        return str(error), notes.texts
    finally:
        logger.removeHandler(notes)


def short(samples, failed, reason="", lost=()):
    return Failures("short", "reward function a.py:short", (), samples, failed, reason, lost)


def other(samples, failed, reason=""):
    return Failures("short", "reward function b.py:short", (), samples, failed, reason)


def test_ranks_are_added_up_and_one_of_them_speaks_once_a_source():
    of_ranks = [[short(4, 0), other(4, 0)], [short(12, 4, "ZeroDivisionError", ("short",)), other(12, 0)]]
    first, second = run_ranks(2, lambda rank, world: reported(rank, of_ranks))
    assert first[0] == second[0] == {"short": 0.25, "short_2": 0.0}
    assert first[1] == [
        "step 3: reward function a.py:short failed on 4 of 16 samples, where short counts 0 and the other rewards "
        "stand: ZeroDivisionError"
    ]
    assert second[1] == []


def test_a_source_that_failed_on_all_samples_stops_every_rank_with_its_name():
    of_ranks = [[short(8, 1, "late"), other(8, 8, "KeyError")], [short(0, 0), other(0, 0)]]
    first, second = run_ranks(2, lambda rank, world: reported(rank, of_ranks))
    assert first == second
    assert first[0].startswith("Step 3: reward function b.py:short failed on all 8 samples: KeyError. ")
    assert "reward.on_failure=continue" in first[0]


def test_or_the_run_goes_on_with_a_warning():
    ((shares, texts),) = run_ranks(1, lambda rank, world: reported(rank, [[short(8, 8, "KeyError")]], "continue"))
    assert shares == {"short": 1.0}
    assert texts == [
        "step 3: reward function a.py:short failed on 8 of 8 samples, where what it gives counts 0 and the other "
        "rewards stand: KeyError"
    ]


def test_a_step_without_samples_is_no_failure():
    """All of its groups waited from the step before."""
    assert run_ranks(1, lambda rank, world: reported(rank, [[short(0, 0)]])) == [({"short": 0.0}, [])]


@pytest.mark.parametrize("function, share", [("sometimes", 0.5), ("never", None)])
def test_a_step_is_collected_with_what_the_users_function_made_of_it(tmp_path, function, share):
    (tmp_path / "mine.py").write_text(
        "def sometimes(prompts, responses, labels):\n"
        "    return {'even': [[1.0, None][int(r) % 2] for r in responses]}\n"
        "def never(prompts, responses, labels):\n    raise OSError('no weights')\n"
    )
    reward = {"functions": [f"{tmp_path}/mine.py:{function}"], "workers": 1}
    options = {"rollout": {"prompts_per_step": 2, "samples_per_prompt": 4}, "reward": reward}
    config = Config.model_validate(options | {"algorithm": {"filter": {"enabled": False}}})
    prompts = [prompt(number, "2") for number in range(2)]

    def collected(rank, world):
        with Scorer(config.reward, 100) as scorer:
            scorer.score(["?"], ["1"], ["1"])  # an evaluation before the step; its failures are not the step's
            stream = PromptStream(2, 0, False)
            collector = Collector(config, RecordingEngine(), scorer, prompts, stream)
            try:
                step = collector.collect(1)
            except RuntimeError as error:
                return str(error), None
            return step.failed, [sample.rewards["even"] for group in step.groups for sample in group.samples]

    ((found, even),) = run_ranks(1, collected)
    if share is None:
        assert found.startswith(
            f"Step 1: reward function {tmp_path}/mine.py:never failed on all 8 samples: OSError: no"
        )
    else:
        assert found == {"accuracy": 0.0, "sometimes": share} and even == [1.0, 0.0, 1.0, 0.0] * 2
