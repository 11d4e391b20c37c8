"""Tiny random checkpoints, written once a session: nothing in them is 0 or 1, so no wrong place looks right."""

import pytest

from examples.digits.model import make_model

SIZES = {"std": 0.15, "hidden_size": 256, "num_heads": 8, "num_kv_heads": 4}  # TP 4 cuts four key-value heads


@pytest.fixture(scope="session")
def untied(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "untied", **SIZES)


@pytest.fixture(scope="session")
def tied(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "tied", tied=True, seed=1, **SIZES)


@pytest.fixture(scope="session")
def untied_4_layers(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "untied", num_layers=4, **SIZES)


@pytest.fixture(scope="session")
def tied_4_layers(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "tied", tied=True, seed=1, num_layers=4, **SIZES)
