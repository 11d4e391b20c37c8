"""Random legal models and layouts through real files, both ways."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from examples.digits.model import make_model
from megatron_eureka.checkpoints import hf_to_megatron, megatron_to_hf
from megatron_eureka.families.source import ModelSource
from tests.checkpoints.reference import assert_equal, expected_checkpoint, read_checkpoint
from tests.checkpoints.test_save import read_all


@st.composite
def models_and_layouts(draw):
    """A small legal model, and a legal layout of it."""
    tp = draw(st.sampled_from([1, 2, 4]))
    num_kv_heads = tp * draw(st.integers(1, 3))
    num_heads = num_kv_heads * draw(st.integers(1, 4))
    pp, vpp = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (3, 1), (4, 1)]))
    sizes = {
        "hidden_size": num_heads * 16,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "ffn_size": tp * draw(st.integers(1, 40)),
        "num_layers": pp * vpp * draw(st.integers(1, 2)),
        "tied": draw(st.booleans()),
    }
    return sizes, {"tp": tp, "pp": pp, "vpp": vpp}


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=models_and_layouts())
def test_random_models_round_trip(tmp_path_factory, drawn):
    sizes, layout = drawn
    folder = tmp_path_factory.mktemp("random")
    hf = make_model(folder / "hf", std=0.15, **sizes)
    hf_to_megatron(hf, folder / "megatron", **layout)
    original = load_file(hf / "model.safetensors")
    assert_equal(read_checkpoint(folder / "megatron"), expected_checkpoint(original, ModelSource.open(hf).info))
    megatron_to_hf(folder / "megatron", folder / "back")
    assert_equal(read_all(folder / "back"), original)
