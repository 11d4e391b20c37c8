"""Tiny random checkpoints, written once a session: nothing in them is 0 or 1, so no wrong place looks right."""

import pytest

from examples.digits.model import make_model


@pytest.fixture(scope="session")
def untied(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "untied", std=0.15, num_heads=8, num_kv_heads=4, hidden_size=256)


@pytest.fixture(scope="session")
def tied(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "tied", std=0.15, tied=True, seed=1, num_heads=8, num_kv_heads=4)
