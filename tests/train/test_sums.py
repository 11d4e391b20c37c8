"""Numbers of rows and ranks become the job's as the table of metrics says: sums, means, maxima."""

import functools
import operator
from types import SimpleNamespace

import pytest
import torch

from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Layout
from megatron_eureka.train.sums import Sums, over_ranks, sum_over_job
from tests.ranks import run_ranks

SUM, TOKENS, SAMPLES = "actor/loss", "actor/ppo_kl", "rollout_corr/rejected_samples"
LARGEST = "actor/log_ratio_max"
NAMES = ("tokens", "samples", SUM, TOKENS, SAMPLES, LARGEST)


def row(*values) -> Sums:
    """Of the NAMES in this order, as rows report them: tensors of any type."""
    return Sums.of({name: torch.tensor(value) for name, value in zip(NAMES, values, strict=True)})


ROWS = [row(4, 2, 0.5, 1.0, 1, 0.25), row(6, 3, 0.25, 4.0, 0, 0.125), row(0, 0, 0.0, 0.0, 0, 0.0)]
# Of all three: losses 0.75; 5 of 10 tokens; 1 of 5 samples; the larger maximum.
METRICS = {SUM: 0.75, TOKENS: 0.5, SAMPLES: 0.2, LARGEST: 0.25}


def test_rows_and_updates_add_up_and_their_maxima_stay():
    total = functools.reduce(operator.add, ROWS)
    assert total.numbers() == {**dict(zip(NAMES, (10, 5, 0.75, 5.0, 1, 0.25), strict=True))}
    assert total.metrics() == METRICS
    assert sum(ROWS[::-1], start=Sums.nothing(NAMES)).metrics() == METRICS
    assert ROWS[0].numbers()["tokens"] == 4  # addition leaves what it adds alone


def test_a_maximum_below_zero_is_not_lost_to_what_reported_nothing():
    total = Sums.nothing((LARGEST,)) + Sums.of({LARGEST: -2.0})
    assert total.metrics() == {LARGEST: -2.0}


def test_a_mean_over_nothing_is_zero():
    assert ROWS[2].metrics() == {SUM: 0.0, TOKENS: 0.0, SAMPLES: 0.0, LARGEST: 0.0}


def test_other_names_do_not_add_up():
    with pytest.raises(AssertionError, match="other names: .*'samples'"):
        Sums.of({"tokens": 1.0}) + Sums.of({"tokens": 1.0, "samples": 1.0})
    with pytest.raises(ValueError, match="'actor/los' is no metric"):
        Sums.nothing(("actor/los",))


def _over_job(rank, world, layout):
    """Each rank has a row of its own, on whichever stage it is; those that do not speak have a wrong one."""
    process_groups = groups.start(layout, seed=1, timeout_s=60)
    place = layout.coordinates(rank)
    policy = SimpleNamespace(is_last_stage=place.pp == layout.pp - 1, groups=process_groups)
    reports = ROWS[place.dp :: layout.dp] if place.tp == 0 else [row(99, 99, 99.0, 99.0, 99, 99.0)]
    total = sum_over_job(policy, reports if policy.is_last_stage else [], NAMES)
    mine = over_ranks({"reward/timeouts": rank, "rollout_corr/is_max": -1.0 - rank})
    groups.stop()
    return total.metrics(), mine


@pytest.mark.parametrize("layout", [Layout(tp=2), Layout(pp=2), Layout(dp=2)], ids=str)
def test_ranks_reduce_by_the_table(layout):
    for metrics, mine in run_ranks(2, _over_job, layout):
        assert metrics == METRICS
        assert mine == {"reward/timeouts": 1.0, "rollout_corr/is_max": -1.0}
