"""Rewards that fail: what is counted for a step, what is lost, and that nothing is said sample by sample."""

import json

import pytest

from megatron_eureka.config.schema import Reward
from megatron_eureka.log import logger
from megatron_eureka.rewards.failures import MAX_REASON, Failures
from megatron_eureka.rewards.scorer import Scorer
from tests.rewards.test_service import serve  # noqa: F401 (a fixture)

FUNCTIONS = """
def broken(prompts, responses, labels):
    raise KeyError("no such weight, " + "x" * 1000)
def touchy(prompts, responses, labels):
    return {"calm": [1 / (len(r) - 1) for r in responses]}
def words(prompts, responses, labels):
    return {"sure": [1.0] * len(responses), "said": ["0.5", None, float("nan"), 10**400][:len(responses)]}
"""


@pytest.fixture
def functions(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(FUNCTIONS)
    return lambda *names: [f"{file}:{name}" for name in names]


def failures_of(scorer):
    accuracy, *users = scorer.take_failures()
    assert (accuracy.name, accuracy.failed) == ("accuracy", 0)
    return users


def test_a_function_that_always_raises_costs_its_own_component_and_is_counted_in_silence(functions, caplog):
    logger.addHandler(caplog.handler)
    try:
        with Scorer(Reward(workers=1, functions=functions("broken", "touchy")), 100) as scorer:
            for _ in range(2):
                scores = scorer.score(["?"] * 3, ["123", "12", "8"], ["123", "12", "8"])
            assert [score["calm"] for score in scores] == [0.5, 1.0, 0.0]
            assert [score["total"] for score in scores] == [1.5, 2.0, 1.0]  # accuracy stands
            broken, touchy = failures_of(scorer)
            assert (broken.samples, broken.failed, broken.lost) == (6, 6, ())  # nobody knows what it would give
            assert broken.name == "broken" and broken.source == f"reward function {functions('broken')[0]}"
            assert broken.reason.startswith("KeyError: 'no such weight, x") and len(broken.reason) <= MAX_REASON
            assert (touchy.samples, touchy.failed, touchy.lost) == (6, 2, ("calm",))
            assert touchy.reason == "ZeroDivisionError: division by zero"
            assert [(found.samples, found.failed) for found in failures_of(scorer)] == [(0, 0), (0, 0)]  # begins again
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


def test_what_is_no_finite_number_fails_in_that_component_alone(functions):
    with Scorer(Reward(workers=1, functions=functions("words")), 100) as scorer:
        scores = scorer.score(["?"] * 4, ["1", "2", "3", "4"], ["0"] * 4)
        assert [(score["sure"], score["said"], score["total"]) for score in scores] == [(1.0, 0.0, 1.0)] * 4
        (words,) = failures_of(scorer)
        assert (words.samples, words.failed, words.lost) == (4, 4, ("said",))
        assert words.reason == "said is '0.5', expected a finite number"
        assert scorer.counters["errors"] == 4


def test_known_components_stay_named_where_the_function_fails(functions):
    with Scorer(Reward(workers=1, functions=functions("touchy")), 100) as scorer:
        assert scorer.score(["?"], ["123"], ["1"])[0]["calm"] == 0.5
        assert scorer.score(["?"], ["1"], ["0"])[0]["calm"] == 0.0


def test_a_service_is_counted_too(serve, caplog):  # noqa: F811
    server = serve((200, json.dumps({"kind": [1.0, "2"]}).encode()), (404, b""))
    logger.addHandler(caplog.handler)
    try:
        with Scorer(Reward(workers=1, services=[server.url], service_retries=0), 100) as scorer:
            scorer.score(["?"] * 2, ["1", "2"], ["1"] * 2)
            (service,) = failures_of(scorer)
            assert (service.samples, service.failed, service.lost) == (2, 1, ("kind",))
            assert service.reason == "kind is '2', expected a finite number"
            assert service.name == f"127.0.0.1:{server.server_address[1]}/score"
            scorer.score(["?"] * 2, ["1", "2"], ["1"] * 2)
            (service,) = failures_of(scorer)
            assert (service.samples, service.failed, service.reason) == (2, 2, "HTTP status 404")
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


@pytest.mark.slow
def test_verifications_that_run_out_of_time_are_counted_by_sample():
    """As in test_scorer: sympy would add up numbers beyond all memory."""
    hostile = r"<answer>$\sum_{n=1}^{10^{12}} n^{n}$</answer>"
    with Scorer(Reward(workers=1, timeout_s=1.0), 100) as scorer:
        scorer.score(["?"] * 3, [hostile, hostile, "8"], ["7", "7", "8"])
        (accuracy,) = scorer.take_failures()
    assert (accuracy.samples, accuracy.failed, accuracy.lost) == (3, 2, ("accuracy",))
    assert accuracy.reason == "over 1.0 s, of an answer to the label '7'"


def test_reasons_are_those_of_the_first_failure():
    failures = Failures("a", "reward function a", ("a", "b"), samples=3)
    failures.lose(1, "first", ["b"])
    failures.lose(2, "second")
    assert (failures.failed, failures.reason, failures.lost) == (3, "first", ("b", "a"))
