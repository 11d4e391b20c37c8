"""Operation counts by hand, on sizes small enough to multiply."""

from megatron_eureka.config.known_models import KNOWN_MODELS
from megatron_eureka.config.memory import total_parameters
from megatron_eureka.data.packing import Item, pack
from megatron_eureka.train.flops import language_model_flops, tower_flops
from megatron_eureka.types import Prompt

INFO = KNOWN_MODELS["Qwen/Qwen2.5-VL-7B-Instruct"]


def row(num_prompt: int, num_response: int, length: int):
    ids = tuple([1] * num_prompt)
    return pack([Item(Prompt("p", 0, (), "", ids, ids), ((2,) * num_response,), (0,))], length, 9, 2)


def test_dense_part_is_two_operations_a_weight_and_token():
    """Against 2 x parameters x tokens, minus embedding, tower, norms and biases (below 1 % of the layers)."""
    one, two = (language_model_flops(INFO, [row(n, 1, n + 1)]) for n in (1, 2))
    attention = INFO.num_layers * 4 * INFO.num_heads * INFO.head_dim * (6 - 3)  # pairs of 3 tokens less those of 2
    per_token = two - one - attention
    embedding = 2 * INFO.vocab_size * INFO.hidden_size
    layers = 7_615_616_512 - embedding  # the language model's published parameters, both embeddings away
    assert abs(per_token / (2 * layers) - 1) < 0.01
    assert total_parameters(INFO) == 8_292_166_656  # guards the constant above: the tower adds 0.68 B


def test_padding_costs_nothing_and_causal_attention_half():
    assert language_model_flops(INFO, [row(4, 2, 6)]) == language_model_flops(INFO, [row(4, 2, 16)])
    long, short = (language_model_flops(INFO, [row(n, 1, n + 1)]) for n in (2001, 1001))
    linear = (language_model_flops(INFO, [row(3, 1, 4)]) - language_model_flops(INFO, [row(2, 1, 3)])) * 1000
    quadratic = INFO.num_layers * 4 * INFO.num_heads * INFO.head_dim * (2002 * 2003 - 1002 * 1003) / 2
    assert abs((long - short) / (linear + quadratic) - 1) < 1e-3  # the slope above holds the pairs of 4 tokens


def test_tower_counts_its_matrices():
    vision = INFO.vision
    assert 0.95 < tower_flops(vision, 1000) / (2 * 1000 * 0.63e9) < 1.05  # about 0.63 B weights see every patch
