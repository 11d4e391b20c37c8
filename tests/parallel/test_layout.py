"""Rank arithmetic against Megatron-Core's own and by hand."""

import pytest
import torch.distributed as dist

from megatron_eureka.parallel import groups
from megatron_eureka.parallel.layout import Coordinates, Layout
from tests.ranks import run_ranks


def test_tp_runs_fastest_then_dp_then_pp():
    layout = Layout(tp=2, pp=2, dp=2)
    assert [layout.coordinates(rank) for rank in (0, 1, 2, 4, 7)] == [
        Coordinates(tp=0, cp=0, dp=0, pp=0),
        Coordinates(tp=1, cp=0, dp=0, pp=0),
        Coordinates(tp=0, cp=0, dp=1, pp=0),
        Coordinates(tp=0, cp=0, dp=0, pp=1),
        Coordinates(tp=1, cp=0, dp=1, pp=1),
    ]


def test_coordinates_and_rank_are_inverse():
    layout = Layout(tp=2, pp=3, cp=2, dp=4)
    assert [layout.rank(layout.coordinates(rank)) for rank in range(layout.world_size)] == list(range(48))


def test_virtual_stages_interleave():
    layout = Layout(pp=2, vpp=2)
    assert [list(layout.layers(8, pp, vpp)) for vpp in (0, 1) for pp in (0, 1)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_world_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        Layout.fill(6, tp=2, pp=2)


def _places(rank, world, layout):
    started = groups.start(layout, seed=0, timeout_s=60)
    names = ("tp", "dp", "pp")
    places = Coordinates(cp=0, **{name: dist.get_rank(getattr(started, name)) for name in names})
    groups.stop()
    return places


@pytest.mark.parametrize("layout", [Layout(tp=2, pp=2), Layout(tp=2, dp=2), Layout(pp=2, dp=2)])
def test_equals_megatron_cores_groups(layout):
    places = run_ranks(4, _places, layout)
    assert places == [layout.coordinates(rank) for rank in range(4)]


def _wrong_world(rank, world):
    with pytest.raises(ValueError, match="4 ranks, the job 2"):
        groups.start(Layout(tp=4), seed=0)


def test_a_layout_of_another_size_than_the_job_is_refused():
    run_ranks(2, _wrong_world)
