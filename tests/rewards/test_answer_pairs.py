"""The table of answers judged by a careful person; see answer_pairs.py."""

import pytest

from megatron_eureka.rewards.accuracy import check_label, score_accuracy
from tests.rewards.answer_pairs import KNOWN_WRONG, PAIRS
from tests.rewards.answer_pairs_in_words import PAIRS_IN_WORDS

ALL_PAIRS = PAIRS + PAIRS_IN_WORDS


def test_the_table_is_large_and_says_nothing_twice():
    pairs = [(label, answer) for label, answer, *_ in ALL_PAIRS + KNOWN_WRONG]
    assert len(pairs) == len(set(pairs)) >= 150
    assert len(KNOWN_WRONG) < 8
    assert sum(not right for *_, right in ALL_PAIRS) > len(ALL_PAIRS) / 4


@pytest.mark.parametrize("label, answer, right", ALL_PAIRS)
def test_the_verdict_is_a_careful_persons(label, answer, right):
    assert check_label(label) is None
    assert score_accuracy(f"<think> 5 or 7, A or B </think> <answer> {answer} </answer>", label) == right


@pytest.mark.parametrize("label, answer, right, reason", KNOWN_WRONG)
def test_the_verdict_is_known_to_be_wrong(label, answer, right, reason):
    assert reason and score_accuracy(f"<answer> {answer} </answer>", label) == (not right)
