"""Attention over segments whose key ranges begin and end anywhere, against one dense mask in float64."""

from types import SimpleNamespace

import pytest
import torch

from megatron_eureka.model.attention import SegmentAttention, packed_row
from megatron_eureka.types import Segment

# A prompt with two responses; a segment whose keys are parts of others', out of order as gathered keys may be; padding.
SEGMENTS = (
    Segment(0, 5, ((0, 5),)),
    Segment(5, 8, ((0, 5), (5, 8))),
    Segment(8, 10, ((0, 5), (8, 10))),
    Segment(10, 13, ((6, 9), (2, 4), (10, 13))),
    Segment(13, 16, ((13, 16),)),
)
HEADS, KEY_HEADS, SIZE = 4, 2, 8


def dense(query, key, value):
    """Segment by segment from the definition: query i of n sees keys up to m - n + i of m."""
    outputs = []
    for segment in SEGMENTS:
        index = [place for start, end in segment.key_ranges for place in range(start, end)]
        num_queries, num_keys = segment.end - segment.start, len(index)
        keys, values = (x[index].repeat_interleave(HEADS // KEY_HEADS, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[segment.start : segment.end], keys) / SIZE**0.5
        hidden = torch.arange(num_keys)[None] > torch.arange(num_queries)[:, None] + num_keys - num_queries
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, values).flatten(1))
    return torch.cat(outputs)


@pytest.fixture
def attention():
    config = SimpleNamespace(attention_dropout=0.0, context_parallel_size=1, kv_channels=SIZE)
    module = SegmentAttention.__new__(SegmentAttention)
    torch.nn.Module.__init__(module)
    module.config, module.scale = config, SIZE**-0.5
    return module


def test_outputs_and_gradients_are_those_of_a_dense_mask(attention):
    generator = torch.Generator().manual_seed(0)

    def random(heads):
        return torch.randn(16, heads, SIZE, generator=generator)

    inputs, upstream = (random(HEADS), random(KEY_HEADS), random(KEY_HEADS)), torch.randn(16, HEADS * SIZE)
    ours = [x.clone().requires_grad_() for x in inputs]
    row = packed_row(SEGMENTS, torch.device("cpu"), torch.float32)
    assert row.pieces == (2, 2, 1, 1, 2, 1, 1, 3, 3)  # cut where any range begins or ends
    out = attention(*(x.unsqueeze(1) for x in ours), packed_seq_params=row)[:, 0]
    theirs = [x.double().requires_grad_() for x in inputs]
    expected = dense(*theirs)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)  # float32 sums of 16 terms
    out.backward(upstream)
    expected.backward(upstream.double())
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, rtol=0, atol=1e-5)
