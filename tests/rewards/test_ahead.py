"""Answers that are verified before they are asked for."""

import threading

import pytest

from megatron_eureka.config.schema import Reward
from megatron_eureka.rewards.ahead import Ahead
from megatron_eureka.rewards.scorer import Scorer


@pytest.fixture
def slow():
    """A scoring function that waits until it is let go, and the lists of pairs that it was given."""
    go, given = threading.Event(), []

    def score(pairs):
        assert go.wait(timeout=30)
        given.append(list(pairs))
        return [float(len(first)) for first, _ in pairs]

    return score, go, given


def test_pairs_that_come_during_work_are_the_next_list(slow):
    score, go, given = slow
    ahead = Ahead(score)
    for text in ("a", "bb", "a", "ccc"):  # returns at once, though nothing is scored yet
        ahead.add((text, ""))
    go.set()
    assert ahead.take() == {("a", ""): 1.0, ("bb", ""): 2.0, ("ccc", ""): 3.0}
    assert sum(given, []) == [("a", ""), ("bb", ""), ("ccc", "")] and len(given) <= 2
    assert ahead.take() == {}  # of the next batch
    ahead.add(("dddd", ""))
    assert ahead.take() == {("dddd", ""): 4.0}
    ahead.close()


def test_what_is_done_or_under_way_is_not_scored_again():
    given, started, go = [], threading.Event(), threading.Event()

    def score(pairs):
        given.append(list(pairs))
        started.set()
        assert go.wait(timeout=30)
        return [1.0] * len(pairs)

    ahead = Ahead(score)
    ahead.add(("a", ""))
    assert started.wait(timeout=30)
    ahead.add(("a", ""))  # while it is scored
    go.set()
    ahead._work.result(timeout=30)
    for text in ("a", "b"):  # behind it
        ahead.add((text, ""))
    assert ahead.take() == {("a", ""): 1.0, ("b", ""): 1.0} and given == [[("a", "")], [("b", "")]]
    ahead.add(("a", ""))  # of the next batch
    assert ahead.take() == {("a", ""): 1.0} and len(given) == 3
    ahead.close()


def test_what_scoring_raised_comes_out_where_the_scores_are_taken():
    def fails(pairs):
        raise RuntimeError("no processes")

    ahead = Ahead(fails)
    ahead.add(("a", ""))
    with pytest.raises(RuntimeError, match="no processes"):
        ahead.take()
    assert ahead.take() == {}
    ahead.close()


def test_a_scorer_verifies_ahead_and_asks_no_second_time():
    with Scorer(Reward(workers=2), max_response_tokens=100) as scorer:
        asked, run = [], scorer._pool.run
        scorer._pool.run = lambda calls: asked.extend(call[1][0] for call in calls) or run(calls)
        for response in ("8", "9", "8"):
            scorer.begin(response, "8")
        scores = scorer.score(["?"] * 4, ["8", "9", "8", "$16/2$"], ["8"] * 4)
        assert [score["accuracy"] for score in scores] == [1.0, 0.0, 1.0, 1.0]
        assert set(asked) == {"$16/2$", "8", "9"} and asked[-1] == "$16/2$"  # alone: the others were done
        assert asked.count("9") == 1
        assert scorer.score(["?"], ["8"], ["7"])[0]["accuracy"] == 0.0  # another label is another question
