"""The order of prompts: whole epochs, the same for the same seed, resumable at any position."""

import json

import pytest

from megatron_eureka.data.stream import PromptStream


def test_every_epoch_holds_each_prompt_once_in_its_own_order():
    stream = PromptStream(10, seed=3)
    first, second = stream.take(10), stream.take(10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second and first != list(range(10))
    assert PromptStream(10, seed=3).take(20) == first + second
    assert PromptStream(10, seed=4).take(10) != first


def test_cuts_do_not_matter():
    whole = PromptStream(7, seed=1).take(30)
    stream = PromptStream(7, seed=1)
    assert [index for size in (3, 3, 14, 0, 1, 9) for index in stream.take(size)] == whole


@pytest.mark.parametrize("taken", [0, 1, 7, 8, 13, 14, 20])
def test_resume_goes_on_exactly(taken):
    stream = PromptStream(7, seed=5)
    stream.take(taken)
    state = json.loads(json.dumps(stream.state_dict()))
    resumed = PromptStream(7, seed=5)
    resumed.load_state_dict(state)
    assert resumed.take(16) == stream.take(16)


def test_without_shuffle_in_order():
    assert PromptStream(3, seed=0, shuffle=False).take(7) == [0, 1, 2, 0, 1, 2, 0]


def test_other_data_or_seed_is_refused():
    state = PromptStream(7, seed=5).state_dict()
    with pytest.raises(ValueError, match="num_prompts = 7, this run has 8"):
        PromptStream(8, seed=5).load_state_dict(state)
    with pytest.raises(ValueError, match="seed = 5, this run has 6"):
        PromptStream(7, seed=6).load_state_dict(state)
    with pytest.raises(ValueError, match="no prompts"):
        PromptStream(0, seed=0)
