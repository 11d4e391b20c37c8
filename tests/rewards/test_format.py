"""The format reward, case by case."""

import pytest

from megatron_eureka.rewards.format import score_format


@pytest.mark.parametrize(
    "response, free, anchored, theirs",
    [
        ("<think> a </think><answer> 1 </answer>", 1, 1, 1),
        ("<think>a</think> \n <answer>1</answer>\n", 1, 1, 1),
        ("<think>a\nb</think><answer>1\n2</answer>", 1, 1, 1),
        ("well <think>a</think><answer>1</answer>", 1, 0, 1),
        ("<think>a</think><answer>1</answer> done", 1, 0, 1),
        ("<think>a</think> so <answer>1</answer>", 0, 0, 0),
        ("<think></think><answer>1</answer>", 0, 0, 0),
        ("<think> </think><answer>1</answer>", 0, 0, 1),  # theirs takes a blank for a thought
        ("<think>a</think><answer></answer>", 0, 0, 0),
        ("<think>a</think><answer>1</answer><answer>1</answer>", 0, 0, 0),
        ("<think>a<think>b</think><answer>1</answer>", 0, 0, 0),
        ("<answer>1</answer><think>a</think>", 0, 0, 0),
        ("<think>a</think><answer>1", 0, 0, 0),
        ("a 1", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_format(response, free, anchored, theirs):
    assert score_format(response) == free
    assert score_format(response, anchored=True) == anchored
    assert score_format(response, compat="mm_eureka") == theirs
