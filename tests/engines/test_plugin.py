"""The plug-in is found by vLLM, and acts in interpreters that know nothing of this project."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

PROBE = """
import megatron_eureka  # on a CPU machine vLLM cannot be imported without it
from vllm.plugins import load_general_plugins
load_general_plugins()
load_general_plugins()
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory as factory
from vllm.model_executor.models import ModelRegistry
engine = factory._registry["megatron_eureka"]()
assert engine.__module__ == "megatron_eureka.engines.plugin", engine
model = ModelRegistry.models["Qwen2_5_VLForConditionalGeneration"]
assert type(model).__name__ == "_RegisteredModel", model  # a class: no fresh interpreter has to look at it
"""


def test_entry_point():
    (ours,) = [point for point in entry_points(group="vllm.general_plugins") if point.name == "megatron_eureka"]
    assert ours.value == "megatron_eureka.engines.plugin:register"


@pytest.mark.slow
def test_plugin_registers_in_a_fresh_interpreter(tmp_path):
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
