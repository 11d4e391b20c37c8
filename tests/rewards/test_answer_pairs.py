"""The table of answers judged by a careful person, see answer_pairs.py: scored as in training and as in benchmarks."""

from dataclasses import asdict

import pytest

from megatron_eureka.answers import Question
from megatron_eureka.evaluate.scoring import AnswerScorer
from megatron_eureka.rewards.accuracy import check_label, judge_answer, score_accuracy
from tests.evaluate.items import item
from tests.rewards.answer_pairs import KNOWN_WRONG, PAIRS
from tests.rewards.answer_pairs_in_words import PAIRS_IN_WORDS

ALL_PAIRS = PAIRS + PAIRS_IN_WORDS


def response(answer):
    return f"<think> 5 or 7, A or B </think> <answer> {answer} </answer>"


def verdicts(answer, label):
    """Training's, and that of a benchmark which knows nothing but the gold."""
    return bool(score_accuracy(response(answer), label)), judge_answer(response(answer), [label], asdict(Question()))[1]


def test_the_table_is_large_and_says_nothing_twice():
    pairs = [(label, answer) for label, answer, *_ in ALL_PAIRS + KNOWN_WRONG]
    assert len(pairs) == len(set(pairs)) >= 150
    assert len(KNOWN_WRONG) < 8
    assert sum(not right for *_, right in ALL_PAIRS) > len(ALL_PAIRS) / 4


@pytest.mark.parametrize("label, answer, right", ALL_PAIRS)
def test_the_verdict_is_a_careful_persons(label, answer, right):
    assert check_label(label) is None
    assert verdicts(answer, label) == (right, right)


@pytest.mark.parametrize("label, answer, right, reason", KNOWN_WRONG)
def test_the_verdict_is_known_to_be_wrong(label, answer, right, reason):
    assert reason and verdicts(answer, label) == (not right, not right)


def test_an_evaluation_gives_these_verdicts():
    with AnswerScorer(workers=1) as scorer:
        found = scorer.score([(item(label, "free"), response(answer)) for label, answer, _ in ALL_PAIRS])
    wrong = [pair for pair, verdict in zip(ALL_PAIRS, found, strict=True) if verdict.correct != pair[2]]
    assert not wrong and not any(scorer.counters.values())
