"""The helper that all multi-rank tests lean on: it must find the rank that failed, and must not wait for ever."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks


def total(rank, world, addend):
    value = torch.tensor([float(rank + addend)])
    dist.all_reduce(value)
    return value, os.environ["RANK"], os.environ["WORLD_SIZE"], torch.get_num_threads()


def test_results_come_in_order_of_ranks():
    results = run_ranks(3, total, 10)
    assert [value.item() for value, *_ in results] == [33.0] * 3
    assert [rest for _, *rest in results] == [[str(rank), "3", 1] for rank in range(3)]


def fails_first(rank, world):
    if rank == 1:
        raise KeyError("the real one")
    try:
        dist.recv(torch.empty(1), src=1)  # fails because rank 1 is gone
    except RuntimeError:
        time.sleep(0.2)
        raise


def test_the_rank_that_failed_first_comes_first():
    with pytest.raises(AssertionError) as caught:
        run_ranks(2, fails_first)
    text = str(caught.value)
    assert text.startswith("fails_first failed on 2 ranks, oldest failure first\nrank 1:\nTraceback")
    assert "KeyError: 'the real one'" in text.split("rank 0:")[0]


def sleeps(rank, world):
    if rank == 0:
        time.sleep(60)


def test_a_hang_is_ended_and_named():
    start = time.monotonic()
    with pytest.raises(AssertionError, match=r"sleeps on 2 ranks ran past 1 s; still alive: ranks \[0\]"):
        run_ranks(2, sleeps, timeout=1)
    assert time.monotonic() - start < 10


def dies(rank, world):
    os._exit(3)


def test_a_rank_that_dies_without_a_word_is_a_failure():
    with pytest.raises(AssertionError, match="no traceback was written: .*exit code 3"):
        run_ranks(1, dies)
