"""M-RoPE positions against a hand count and against transformers' own."""

from dataclasses import replace

import pytest
import torch

from megatron_eureka.families import PUBLISHED
from megatron_eureka.families.qwen2_5_vl.positions import mrope_positions

IMAGE = 9
INFO = replace(PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"], image_token_id=IMAGE)


def test_by_hand():
    # two words, an image of 2 x 3 merged patches, one word: the word goes on from 2 + max(2, 3)
    positions, following = mrope_positions([1, 2, *[IMAGE] * 6, 3], [(1, 4, 6)], INFO)
    assert positions[0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5]
    assert positions[1].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5]
    assert positions[2].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5]
    assert following == 6


def test_text_alone_counts_up():
    positions, following = mrope_positions([1, 2, 3], [], INFO)
    assert positions.tolist() == [[0, 1, 2]] * 3 and following == 3


def test_equals_transformers_for_several_images():
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    grids = [(1, 8, 12), (1, 6, 4), (1, 2, 2)]
    ids = [1, 2]
    for _, height, width in grids:
        ids += [7, *[IMAGE] * (height * width // 4), 8]
    ids += [3, 4, 5]
    with torch.device("meta"):
        reference = Qwen2_5_VLModel(Qwen2_5_VLConfig())
    kinds = (torch.tensor([ids]) == IMAGE).int()
    expected, delta = reference.get_rope_index(torch.tensor([ids]), kinds, image_grid_thw=torch.tensor(grids))
    positions, following = mrope_positions(ids, grids, INFO)
    assert torch.equal(positions, expected[:, 0])
    assert following == len(ids) + delta.item()


@pytest.mark.parametrize("grids", [[], [(1, 4, 6), (1, 2, 2)], [(1, 4, 8)]])
def test_placeholders_that_do_not_match_the_images_are_refused(grids):
    with pytest.raises(ValueError, match="placeholders"):
        mrope_positions([1, *[IMAGE] * 6, 3], grids, INFO)
