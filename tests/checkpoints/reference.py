"""Stored tensors of a Megatron checkpoint, written out by hand from Megatron-Core's layouts, without the table."""

import torch
from torch.distributed.checkpoint import FileSystemReader, load


def expected_checkpoint(hf: dict[str, torch.Tensor], info) -> dict[str, torch.Tensor]:
    """Full tensors by key from Hugging Face tensors (on-disk names)."""
    result = {name: tensor for name, tensor in hf.items() if name.startswith("visual.")}
    result["language_model.embedding.word_embeddings.weight"] = hf["model.embed_tokens.weight"]
    result["language_model.decoder.final_layernorm.weight"] = hf["model.norm.weight"]
    if "lm_head.weight" in hf and not info.tied:
        result["language_model.output_layer.weight"] = hf["lm_head.weight"]
    per_layer = [_layer(hf, f"model.layers.{number}.", info) for number in range(info.num_layers)]
    for name in per_layer[0]:
        result[f"language_model.decoder.layers.{name}"] = torch.stack([layer[name] for layer in per_layer])
    return result


def _layer(hf, prefix, info):
    def grouped(kind):
        """[kv groups, (q heads of the group, k, v) x head dim, ...] flattened: Megatron's mixed qkv."""
        q, k, v = (hf[f"{prefix}self_attn.{name}_proj.{kind}"] for name in "qkv")
        rest = q.shape[1:]
        per_group = [part.reshape(info.num_kv_heads, -1, info.head_dim, *rest) for part in (q, k, v)]
        return torch.cat(per_group, dim=1).reshape(-1, *rest)

    return {
        "self_attention.linear_qkv.layer_norm_weight": hf[f"{prefix}input_layernorm.weight"],
        "self_attention.linear_qkv.weight": grouped("weight"),
        "self_attention.linear_qkv.bias": grouped("bias"),
        "self_attention.linear_proj.weight": hf[f"{prefix}self_attn.o_proj.weight"],
        "mlp.linear_fc1.layer_norm_weight": hf[f"{prefix}post_attention_layernorm.weight"],
        "mlp.linear_fc1.weight": torch.cat([hf[f"{prefix}mlp.gate_proj.weight"], hf[f"{prefix}mlp.up_proj.weight"]]),
        "mlp.linear_fc2.weight": hf[f"{prefix}mlp.down_proj.weight"],
    }


def read_checkpoint(folder) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by torch's own loader, into targets filled with NaN."""
    reader = FileSystemReader(folder)
    tensors = {k: m for k, m in reader.read_metadata().state_dict_metadata.items() if hasattr(m, "size")}
    state = {key: torch.full(item.size, torch.nan, dtype=item.properties.dtype) for key, item in tensors.items()}
    load(state, storage_reader=reader, no_dist=True)
    return state


def assert_equal(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Same names, same bits."""
    assert got.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(got[name], expected[name])] == []
