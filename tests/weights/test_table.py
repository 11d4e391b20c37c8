"""The table against transformers' own modules and against layouts written out by hand."""

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from megatron_eureka.families import on_disk_name, read_sizes
from megatron_eureka.families.source import ModelSource
from megatron_eureka.weights import check_tp_size, hf_tensors, hf_to_shard, rules_by_name, shards_to_hf, table
from megatron_eureka.weights.cuts import shard_shape
from megatron_eureka.weights.table import TABLE_VERSION

# hidden, layers, q heads, kv heads, FFN, vocabulary, tied, tower FFN, parameters as published on the model pages
PUBLISHED = {
    "3B": (2048, 36, 16, 2, 11008, 151936, True, 3420, 3_754_622_976),
    "7B": (3584, 28, 28, 4, 18944, 152064, False, 3420, 8_292_166_656),
    "32B": (5120, 64, 40, 8, 27648, 152064, False, 3456, 33_452_718_336),
    "72B": (8192, 80, 64, 8, 29568, 152064, False, 3456, 73_410_777_344),
}


def published_config(size):
    hidden, layers, heads, kv_heads, ffn, vocab, tied, tower_ffn, _ = PUBLISHED[size]
    return {
        "model_type": "qwen2_5_vl",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 128000,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "image_token_id": 151655,
        "vision_start_token_id": 151652,
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": tower_ffn,
            "num_heads": 16,
            "out_hidden_size": hidden,
        },
    }


@pytest.mark.parametrize("size", PUBLISHED)
def test_names_and_shapes_are_those_of_transformers(size):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    raw = published_config(size)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**raw))
    theirs = {on_disk_name(name): tuple(p.shape) for name, p in model.named_parameters()}
    ours = {tensor.name: tensor.shape for tensor in hf_tensors(read_sizes(raw)).values()}
    assert ours == theirs
    assert sum(torch.Size(shape).numel() for shape in ours.values()) == PUBLISHED[size][-1]


@pytest.mark.parametrize("size", PUBLISHED)
def test_shards_add_up_at_every_legal_tp(size):
    info = read_sizes(published_config(size))
    for tp in [tp for tp in (1, 2, 4, 8) if tp <= info.num_kv_heads]:
        check_tp_size(info, tp)
        for rule in table(info):
            total = sum(torch.Size(source.shape).numel() for source in rule.sources)
            copies = tp if rule.tp_dim is not None else 1
            assert torch.Size(shard_shape(rule, tp)).numel() * copies == total, rule.name


def test_every_hf_tensor_has_one_exporting_rule(untied, tied):
    for folder in (untied, tied):
        info = ModelSource.open(folder).info
        exported = [source.name for rule in table(info) if rule.exported for source in rule.sources]
        assert sorted(exported) == sorted(load_file(folder / "model.safetensors"))
        names = [rule.name for rule in table(info)]
        assert len(set(names)) == len(names)


def by_hand(tensors, info, tp_rank, tp_size):
    """Layer 1 of a rank, with Megatron's layouts spelled out by reshapes instead of cuts."""
    theirs, ours = "model.layers.1.", "language_model.decoder.layers.1."
    result = {}
    for kind in ("weight", "bias"):
        q, k, v = (tensors[f"{theirs}self_attn.{p}_proj.{kind}"] for p in "qkv")
        grouped = [t.reshape(info.num_kv_heads, -1, *t.shape[1:]) for t in (q, k, v)]
        whole = torch.cat(grouped, 1).flatten(0, 1)
        result[f"{ours}self_attention.linear_qkv.{kind}"] = whole.chunk(tp_size)[tp_rank]
    gate, up, down = (tensors[f"{theirs}mlp.{p}_proj.weight"] for p in ("gate", "up", "down"))
    result[f"{ours}mlp.linear_fc1.weight"] = torch.cat([gate.chunk(tp_size)[tp_rank], up.chunk(tp_size)[tp_rank]])
    result[f"{ours}mlp.linear_fc2.weight"] = down.chunk(tp_size, 1)[tp_rank]
    result[f"{ours}self_attention.linear_proj.weight"] = tensors[f"{theirs}self_attn.o_proj.weight"].chunk(tp_size, 1)[
        tp_rank
    ]
    result["language_model.output_layer.weight"] = tensors["lm_head.weight"].chunk(tp_size)[tp_rank]
    return result


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_layouts_are_megatrons(untied, tp):
    info, tensors = ModelSource.open(untied).info, load_file(untied / "model.safetensors")
    rules = rules_by_name(info)
    for tp_rank in range(tp):
        for name, expected in by_hand(tensors, info, tp_rank, tp).items():
            assert torch.equal(hf_to_shard(rules[name], tensors, tp_rank, tp), expected), name


def mutations(rules):
    qkv = rules["language_model.decoder.layers.1.self_attention.linear_qkv.weight"]
    fc1 = rules["language_model.decoder.layers.1.mlp.linear_fc1.weight"]
    q, k, v = qkv.sources
    yield "k and v swapped", replace(qkv, sources=(q, v, k))
    yield "q after k", replace(qkv, sources=(k, q, v))
    yield "all q, all k, all v of a rank", replace(qkv, groups=None)
    yield "twice as many groups", replace(qkv, groups=qkv.groups * 2)
    yield "gate and up swapped", replace(fc1, sources=fc1.sources[::-1])
    yield "gate and up interleaved", replace(fc1, groups=8)


@pytest.mark.parametrize("tp", [1, 2])
def test_wrong_layouts_are_told_apart(untied, tp):
    info, tensors = ModelSource.open(untied).info, load_file(untied / "model.safetensors")
    expected = by_hand(tensors, info, 0, tp)
    for what, rule in mutations(rules_by_name(info)):
        assert not torch.equal(hf_to_shard(rule, tensors, 0, tp), expected[rule.name]), what


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_round_trip_is_exact(request, kind, tp):
    folder = request.getfixturevalue(kind)
    info, tensors = ModelSource.open(folder).info, load_file(folder / "model.safetensors")
    for rule in table(info):
        shards = [hf_to_shard(rule, tensors, rank, tp) for rank in range(tp)]
        assert all(tuple(shard.shape) == shard_shape(rule, tp) for shard in shards)
        for name, tensor in shards_to_hf(rule, shards).items():
            assert torch.equal(tensor, tensors[name]), name


def test_tp_size_that_cuts_a_kv_head_is_refused():
    info = read_sizes(published_config("3B"))
    with pytest.raises(ValueError, match="size 4 does not divide the model's num_kv_heads of 2"):
        check_tp_size(info, 4)


# The hash of names and layouts by version of the table. A change here means that older checkpoints would be read
# wrongly: then count TABLE_VERSION up, and add its line.
TABLE_HASHES = {1: "003c67042f578a24"}


def test_a_changed_table_has_a_new_version():
    rules = [
        (rule.name, [(source.name, source.shape) for source in rule.sources], rule.tp_dim, rule.groups, rule.exported)
        for size in PUBLISHED
        for rule in table(read_sizes(published_config(size)))
    ]
    assert hashlib.sha256(repr(rules).encode()).hexdigest()[:16] == TABLE_HASHES[TABLE_VERSION]
