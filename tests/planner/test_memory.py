"""The memory estimate against hand-derived numbers and the published parameter counts."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_eureka.config.load import load_config
from megatron_eureka.families import PUBLISHED
from megatron_eureka.planner.memory import estimate_memory, kv_bytes_per_token
from megatron_eureka.planner.parameters import stage_parameters, total_parameters

ROOT = Path(__file__).parents[2]
SEVEN = PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]


@pytest.mark.parametrize(
    "size, count",
    [("3B", 3_754_622_976), ("7B", 8_292_166_656), ("32B", 33_452_718_336), ("72B", 73_410_777_344)],
)
def test_parameter_counts_are_the_published_ones(size, count):
    """The safetensors counts that the Hugging Face hub shows."""
    assert total_parameters(PUBLISHED[f"Qwen/Qwen2.5-VL-{size}-Instruct"]) == count


def test_7b_on_one_node_by_hand():
    config = load_config(ROOT / "configs/qwen2_5_vl_7b_1node.yaml")
    estimate = estimate_memory(config, SEVEN, 8)
    vision = 676_550_144
    language = (8_292_166_656 - vision) // 2  # tp 2
    assert estimate.weights == 2 * (language + vision)  # bf16; the tower is whole on each rank
    assert estimate.gradients == 4 * language  # fp32; the tower is frozen
    assert estimate.optimizer == 12 * language // 4  # master, two moments; dp = 8 / 2
    # recompute: 28 layers keep their input, 3584 / 2 (sp) elements of 2 bytes for 8192 tokens; plus one whole layer:
    # 4 x 3584 / 2 + (2 x 28 + 2 x 4) x 128 / 2 + 3 x 18944 / 2 = 7168 + 4096 + 28416 elements a token
    assert estimate.activations == 28 * 8192 * 2 * 1792 + 8192 * 2 * (7168 + 4096 + 28416)
    assert estimate.logits == 2.5 * 512 * 2**20
    assert estimate.engine_weights == 2 * 8_292_166_656
    assert 35 < estimate.training / (1 << 30) < 36  # the sum of the above


def test_stages_hold_everything_once():
    language = [stage_parameters(SEVEN, 1, 4, stage)[0] for stage in range(4)]
    vision = [stage_parameters(SEVEN, 1, 4, stage)[1] for stage in range(4)]
    assert sum(language) + sum(vision) == 8_292_166_656
    assert vision == [676_550_144, 0, 0, 0]
    tied = PUBLISHED["Qwen/Qwen2.5-VL-3B-Instruct"]
    # with two stages, the last one keeps a copy of the tied embedding
    copies = sum(sum(stage_parameters(tied, 1, 2, stage)) for stage in range(2)) - total_parameters(tied)
    assert copies == 151936 * 2048


def test_fp32_keeps_no_master_copy():
    options = ["precision.dtype=fp32", "parallel.tp=1", "parallel.recompute=none", "model.freeze_vision=false"]
    estimate = estimate_memory(load_config(ROOT / "configs/qwen2_5_vl_7b_1node.yaml", options), SEVEN, 8)
    assert estimate.weights == estimate.gradients == 4 * 8_292_166_656
    assert estimate.optimizer == 8_292_166_656  # 8 bytes over 8 replicas
    # 28 layers x 8192 tokens x 4 bytes x (4 x 3584 + 64 x 128 + 3 x 18944)
    assert estimate.activations == 28 * 8192 * 4 * (14336 + 8192 + 56832)


def test_a_token_of_the_kv_cache_by_hand():
    """28 layers, keys and values of 4 heads of 128 in bf16; over 8 engine ranks every rank still holds one head."""
    assert kv_bytes_per_token(SEVEN, 1, 2) == 2 * 28 * 4 * 128 * 2
    assert kv_bytes_per_token(SEVEN, 2, 2) == 2 * 28 * 2 * 128 * 2
    assert kv_bytes_per_token(SEVEN, 8, 4) == 2 * 28 * 1 * 128 * 4


def test_the_planner_needs_no_torch():
    code = (
        "import sys, megatron_eureka.planner.memory, megatron_eureka.planner.flops; "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_shipped_plans_fit_into_80_gb():
    for file in ROOT.glob("configs/qwen2_5_vl_*.yaml"):
        config = load_config(file)
        estimate = estimate_memory(config, PUBLISHED[config.model.path], config.launch.ranks * config.launch.nodes)
        assert estimate.training < 80e9 * 0.9, file.name  # a tenth for CUDA, NCCL and the allocator
