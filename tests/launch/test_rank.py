"""Which processes are ranks: what torchrun's and srun's variables say."""

import os

import pytest

from megatron_eureka.launch.elastic import is_rank

STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "11", "SLURM_NTASKS": "16", "SLURM_LOCALID": "3"}
MEETING = {"MASTER_ADDR": "n1", "MASTER_PORT": "12345"}


@pytest.fixture
def environment(monkeypatch) -> dict[str, str]:
    variables: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", variables)
    return variables


def test_a_task_of_srun_is_a_rank(environment):
    environment.update(STEP | MEETING)
    assert is_rank()
    assert (environment["RANK"], environment["WORLD_SIZE"], environment["LOCAL_RANK"]) == ("11", "16", "3")


def test_what_torchrun_says_counts_before_what_srun_says(environment):
    environment.update(STEP | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    assert is_rank()
    assert (environment["RANK"], environment["WORLD_SIZE"], environment["LOCAL_RANK"]) == ("1", "2", "1")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "16"},  # a batch script before its srun
        STEP | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"},  # srun --pty bash
    ],
)
def test_a_shell_is_no_rank(environment, variables):
    environment.update(variables)
    assert not is_rank()
    assert "RANK" not in environment and "WORLD_SIZE" not in environment


def test_ranks_without_a_meeting_point_are_refused(environment):
    environment.update(STEP)
    with pytest.raises(ValueError, match="16 tasks without MASTER_ADDR and MASTER_PORT"):
        is_rank()
