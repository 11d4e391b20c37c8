"""Samples of several engines on every rank: numbers to the bit that engines compute, texts where they are logged."""

import math

import torch

from megatron_eureka.engines.protocol import Rejection
from megatron_eureka.engines.travel import share
from megatron_eureka.types import FinishReason, Sample, VersionSpan
from tests.ranks import run_ranks

LOGPROB = torch.tensor(-0.1).item()  # a float32 number
FIRST = Sample(
    (5, 151_643), (LOGPROB, math.nan), FinishReason.LENGTH, (VersionSpan(0, 3),), "x²\u2028 漢字", {"a": 0.1}
)
SECOND = Sample(
    (7, 8, 9), (LOGPROB, -2.0, -3.0), FinishReason.STOP, (VersionSpan(0, 3), VersionSpan(2, 4)), "y", {"a": 1.0},
    (True, True, False),
)  # fmt: skip
EMPTY = Sample((), (), FinishReason.STOP, (VersionSpan(0, 3),), "", {"b": 1 / 3})
SHARES = ({0: (FIRST, SECOND), 2: Rejection("p2", "12 tokens here, 13 there")}, {1: (EMPTY,)}, {})


def test_every_rank_gets_everything_but_texts():
    ranks = run_ranks(3, lambda rank, world: share(SHARES[rank]))
    for rank, found in enumerate(ranks):
        assert found.keys() == {0, 1, 2} and found[2] == SHARES[0][2]
        for place, samples in ((0, (FIRST, SECOND)), (1, (EMPTY,))):
            for got, sent in zip(found[place], samples, strict=True):
                assert repr(vars(got)) == repr(vars(sent) | ({} if rank == 0 else {"text": ""}))  # NaN is not itself


def test_nothing_is_shared_where_nothing_was_drawn():
    assert run_ranks(2, lambda rank, world: share({})) == [{}, {}]
