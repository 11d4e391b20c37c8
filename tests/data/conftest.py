"""The processor of the demo's tiny model, made once."""

import pytest


@pytest.fixture(scope="session")
def processor(tmp_path_factory):
    from transformers import AutoProcessor

    from examples.digits.model import make_model

    folder = make_model(tmp_path_factory.mktemp("tiny"), num_layers=1, vision_depth=1)
    return AutoProcessor.from_pretrained(folder)
