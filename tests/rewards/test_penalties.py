"""Penalties for length and repetition, with numbers derived by hand."""

import pytest

from megatron_eureka.config.schema import Overlong, Repetition, Reward
from megatron_eureka.rewards.penalties import score_overlong, score_repetition
from megatron_eureka.rewards.scorer import Scorer


@pytest.mark.parametrize(
    "num_tokens, expected",
    [
        (0, 0.0),
        (16384, 0.0),  # the paper's lengths: 20,480 at most, the last 4,096 punished
        (16385, -1 / 4096),
        (18432, -0.5),
        (20480, -1.0),
        (30000, -1.0),
    ],
)
def test_overlong_is_equation_13(num_tokens, expected):
    assert score_overlong(num_tokens, 20480, 4096, 1.0) == expected
    assert score_overlong(num_tokens, 20480, 4096, 0.25) == expected / 4


@pytest.mark.parametrize(
    "text, ngram, expected",
    [
        ("a b c d", 2, 0.0),  # 3 pairs, all distinct
        ("a b a b", 2, -1 / 3),  # ab ba ab
        ("a A a  a\na", 2, -3 / 4),  # one of 4 pairs; case and blanks do not count
        ("a a a", 3, 0.0),
        ("a a", 3, 0.0),  # shorter than one n-gram
        ("", 1, 0.0),
        ("三角形三角形", 3, -1 / 4),  # 三角形 角形三 形三角 三角形
        ("so x=1 so x=1", 1, -1 / 2),
    ],
)
def test_repetition_counts_ngrams(text, ngram, expected):
    assert score_repetition(text, ngram, 1.0) == pytest.approx(expected)
    assert score_repetition(text, ngram, 0.5) == pytest.approx(expected / 2)


def test_penalties_are_components_only_when_on_and_join_the_total():
    prompts, responses, labels = ["?"] * 2, ["8 8 8 8", "8"], ["8"] * 2
    with Scorer(Reward(workers=1), 100) as off:
        assert set(off.score(prompts, responses, labels, [100, 95])[0]) == {"accuracy", "format", "total"}
    both = Reward(
        workers=1, overlong=Overlong(penalty=0.5, buffer_tokens=20), repetition=Repetition(penalty=1.0, ngram=2)
    )
    with Scorer(both, 100) as scorer:
        scores = scorer.score(prompts, responses, labels, [100, 90])
    assert [(score["overlong"], score["repetition"]) for score in scores] == [
        (-0.5, pytest.approx(-2 / 3)),
        (-0.25, 0.0),
    ]
    assert [score["total"] for score in scores] == [
        pytest.approx(score["accuracy"] + score["overlong"] + score["repetition"]) for score in scores
    ]
    assert scores[1]["total"] == 0.75
