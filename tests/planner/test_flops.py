"""Operation counts by hand, on sizes small enough to multiply."""

import torch

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.data.packing import Item, pack
from megatron_eureka.families import PUBLISHED
from megatron_eureka.planner.flops import flops_of_rows, language_model_flops, peak_flops, tower_flops
from megatron_eureka.planner.parameters import total_parameters
from megatron_eureka.types import MicroBatch, Prompt, Segment

INFO = PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]


def row(num_prompt: int, num_response: int, length: int):
    ids = tuple([1] * num_prompt)
    return pack([Item(Prompt("p", 0, (), "", ids, ids), ((2,) * num_response,), (0,))], length, INFO)


def test_dense_part_is_two_operations_a_weight_and_token():
    """Against 2 x parameters x tokens, minus embedding, tower, norms and biases (below 1 % of the layers)."""
    one, two = (flops_of_rows(INFO, [row(n, 1, n + 1)]) for n in (1, 2))
    attention = INFO.num_layers * 4 * INFO.num_heads * INFO.head_dim * (6 - 3)  # pairs of 3 tokens less those of 2
    per_token = two - one - attention
    embedding = 2 * INFO.vocab_size * INFO.hidden_size
    layers = 7_615_616_512 - embedding  # the language model's published parameters, both embeddings away
    assert abs(per_token / (2 * layers) - 1) < 0.01
    assert total_parameters(INFO) == 8_292_166_656  # guards the constant above: the tower adds 0.68 B


def test_padding_costs_nothing_and_causal_attention_half():
    assert flops_of_rows(INFO, [row(4, 2, 6)]) == flops_of_rows(INFO, [row(4, 2, 16)])
    long, short = (flops_of_rows(INFO, [row(n, 1, n + 1)]) for n in (2001, 1001))
    linear = (flops_of_rows(INFO, [row(3, 1, 4)]) - flops_of_rows(INFO, [row(2, 1, 3)])) * 1000
    quadratic = INFO.num_layers * 4 * INFO.num_heads * INFO.head_dim * (2002 * 2003 - 1002 * 1003) / 2
    assert abs((long - short) / (linear + quadratic) - 1) < 1e-3  # the slope above holds the pairs of 4 tokens


def test_tower_counts_its_matrices():
    vision = INFO.vision
    assert 0.95 < tower_flops(vision, 1000) / (2 * 1000 * 0.63e9) < 1.05  # about 0.63 B weights see every patch


def test_flops_of_a_row_by_hand():
    """Two prompt tokens and one response of three that sees them; numbers from the formula 2 N t + 4 L h d pairs."""
    row = MicroBatch(
        *(torch.zeros(0, dtype=torch.int64),) * 2,
        segments=(Segment(0, 2, ((0, 2),)), Segment(2, 5, ((0, 2), (2, 5)))),
        image_index=torch.zeros(0, dtype=torch.int64),
        images=(),
        predict_index=torch.zeros(3, dtype=torch.int64),
        targets=torch.zeros(3, dtype=torch.int64),
        sample_index=torch.zeros(3, dtype=torch.int64),
        num_tokens=5,
    )
    info = ModelInfo(
        family="qwen2_5_vl", hidden_size=4, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=2, ffn_size=8,
        vocab_size=10, tied=False, rms_norm_eps=1e-6, rope_theta=1e4, mrope_section=(1, 0, 0), max_positions=16,
        image_token_id=9, vision_start_token_id=8, vision=None,
    )  # fmt: skip
    pairs = 1 + 2 + (3 + 4 + 5)
    layer = 4 * (4 + 4) + 4 * 4 + 3 * 4 * 8  # q and kv, output, MLP
    expected = 2 * 3 * layer * 5 + 4 * 3 * 2 * 2 * pairs + 2 * 10 * 4 * 3
    assert flops_of_rows(info, [row]) == expected
    assert language_model_flops(info, 5, 3, pairs) == expected


def test_peaks_are_found_by_the_name_of_the_device():
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA GeForce RTX 3060") is None
