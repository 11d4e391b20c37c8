"""A SLURM of two nodes for the whole session, and a small job to submit to it."""

import os

import pytest

from tests.launch.slurm import missing, start_cluster
from tests.train.conftest import job  # noqa: F401  (the same small job)


@pytest.fixture(scope="session")
def cluster():
    reason = missing()
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"SLURM cannot be started: {reason}")
    with start_cluster() as running:
        yield running
