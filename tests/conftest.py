"""Imports the package first, for an environment that `tools/setup/venv.sh` did not make: on CPU it makes CUDA-linked
wheels importable, as a file of that script's does in every interpreter."""

import pytest

import megatron_eureka  # noqa: F401


@pytest.fixture(scope="session")
def processor(tmp_path_factory):
    """The processor of the demo's tiny model, made once."""
    from transformers import AutoProcessor

    from examples.digits.model import make_model

    folder = make_model(tmp_path_factory.mktemp("tiny"), num_layers=1, vision_depth=1)
    return AutoProcessor.from_pretrained(folder)
