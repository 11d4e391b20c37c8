"""Tiny random checkpoints, written once a session: nothing in them is 0 or 1, so no wrong place looks right."""

import shutil

import pytest

from examples.digits.model import make_model
from megatron_eureka.checkpoints import hf_to_megatron

SIZES = {"std": 0.15, "hidden_size": 256, "num_heads": 8, "num_kv_heads": 4}  # TP 4 cuts four key-value heads


@pytest.fixture(scope="session")
def untied(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "untied", **SIZES)


@pytest.fixture(scope="session")
def tied(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "tied", tied=True, seed=1, **SIZES)


@pytest.fixture(scope="session")
def untied_8_layers(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "untied", num_layers=8, **SIZES)


@pytest.fixture(scope="session")
def tied_8_layers(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hf") / "tied", tied=True, seed=1, num_layers=8, **SIZES)


@pytest.fixture
def hf(untied, tmp_path):
    return shutil.copytree(untied, tmp_path / "hf")


@pytest.fixture(scope="session")
def converted(untied, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "megatron"
    hf_to_megatron(untied, folder, tp=2)
    return folder


@pytest.fixture
def megatron(converted, tmp_path):
    return shutil.copytree(converted, tmp_path / "megatron")
