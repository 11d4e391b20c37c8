"""The plan of buckets, as arithmetic: every byte once, in order, within the limits."""

import pytest
import torch

from megatron_eureka.bridge import Owned, plan_buckets
from megatron_eureka.families import read_sizes
from megatron_eureka.weights import HfTensor, Rule, table
from tests.weights.test_table import PUBLISHED, published_config


def owned(name, numel, stage=0, dtype=torch.float32):
    return Owned(Rule(name, (HfTensor(name, (numel,)),), tp_dim=None), stage, dtype)


def test_by_hand():
    """Capacity 32 bytes a rank: a of 20 bytes fills them, b of 48 is 32 + 16, c rides along."""
    parameters = [owned(f"language_model.{n}", size) for n, size in (("a", 5), ("b", 12), ("c", 4))]
    first, second, third = plan_buckets(parameters, tp_size=2, bucket_bytes=64)
    assert [(p.owned.rule.name[-1], p.start, p.size, p.offset, p.is_last) for p in first.pieces] == [
        ("a", 0, 20, 0, True)
    ]
    assert [(p.owned.rule.name[-1], p.start, p.size, p.offset, p.is_last) for p in second.pieces] == [
        ("b", 0, 32, 0, False)
    ]
    assert [(p.owned.rule.name[-1], p.start, p.size, p.offset, p.is_last) for p in third.pieces] == [
        ("b", 32, 16, 0, True),
        ("c", 0, 16, 16, True),
    ]
    assert [bucket.num_bytes for bucket in (first, second, third)] == [32, 32, 32]


def test_stages_and_the_tower_have_buckets_of_their_own():
    names = [("visual.x", 0), ("language_model.a", 0), ("language_model.b", 1)]
    buckets = plan_buckets([owned(name, 4, stage) for name, stage in names], tp_size=2, bucket_bytes=1024)
    assert [(bucket.stage, bucket.gathered) for bucket in buckets] == [(0, False), (0, True), (1, True)]


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_within_512_mib(size):
    info = read_sizes(published_config(size))
    limit, tp = 512 << 20, 2
    parameters = [Owned(rule, 0, torch.bfloat16) for rule in table(info) if rule.exported]
    sent = dict.fromkeys((one.rule.name for one in parameters), 0)
    for bucket in plan_buckets(parameters, tp, limit):
        assert bucket.num_bytes * (tp if bucket.gathered else 1) <= limit
        end = 0
        for piece in bucket.pieces:
            assert piece.offset == end and piece.offset % 16 == 0
            assert piece.start == sent[piece.owned.rule.name]
            sent[piece.owned.rule.name] += piece.size
            end = piece.offset + -(-piece.size // 16) * 16
        assert end == bucket.num_bytes
    assert sent == {one.rule.name: one.shard_bytes(tp) for one in parameters}


def test_bucket_that_cannot_hold_a_piece_is_refused():
    with pytest.raises(ValueError, match="31 bytes is too small for 2 ranks"):
        plan_buckets([owned("visual.x", 4)], tp_size=2, bucket_bytes=31)
