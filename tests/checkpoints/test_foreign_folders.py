"""Folders as other programs leave them: what can be read is read, the rest is refused with its cause."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_eureka.checkpoints import check_hf_keys, companions, hf_to_megatron, megatron_to_hf, save_hf
from megatron_eureka.families.folder import find_model_folder
from megatron_eureka.families.source import ModelSource
from tests.checkpoints.rejections import rejected, rewrite


def shards_without_index(folder):
    tensors = load_file(folder / "model.safetensors")
    save_hf(folder.with_name("sharded"), tensors.items(), folder, max_file_bytes=1_000_000)
    shutil.rmtree(folder)
    folder.with_name("sharded").rename(folder)
    (folder / "model.safetensors.index.json").unlink()
    return sorted(folder.glob("*.safetensors"))


def test_shards_without_an_index_are_read_by_their_headers(untied, hf, tmp_path):
    assert len(shards_without_index(hf)) > 2
    expected = hf_to_megatron(untied, tmp_path / "a")
    assert hf_to_megatron(hf, tmp_path / "b").weights_hash == expected.weights_hash
    for number, shard in enumerate(sorted(hf.glob("*.safetensors"))):  # names that say nothing
        shard.rename(hf / f"part_{number}.safetensors")
    assert hf_to_megatron(hf, tmp_path / "c").weights_hash == expected.weights_hash


def test_a_shard_that_is_missing_without_an_index_is_named(hf, tmp_path):
    shards = shards_without_index(hf)
    for shard in (shards[0], shards[-1]):
        content = shard.read_bytes()
        shard.unlink()
        rejected(hf_to_megatron, hf, tmp_path / "out", f"{shard} is missing", f"there are {len(shards)} files")
        shard.write_bytes(content)


def test_another_file_beside_the_weights_is_refused(hf, tmp_path):
    """vLLM would load all of them, and die of the names."""
    save_file({"x": torch.ones(1)}, hf / "adapter_model.safetensors")
    rejected(hf_to_megatron, hf, tmp_path / "out", "holds adapter_model.safetensors beside model.safetensors")
    (hf / "model.safetensors").rename(hf / "part.safetensors")
    rejected(hf_to_megatron, hf, tmp_path / "out", "holds adapter_model.safetensors beside part.safetensors")


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "visual.rotary_pos_emb.inv_freq"])
def test_buffers_of_frequencies_are_left_out(untied, hf, tmp_path, name):
    rewrite(hf, lambda tensors: tensors.update({name: torch.ones(16)}))
    check_hf_keys(hf, ModelSource.open(hf).info)
    written = hf_to_megatron(hf, tmp_path / "a")
    assert written.weights_hash == hf_to_megatron(untied, tmp_path / "b").weights_hash


def with_prefix(prefix):
    def change(tensors):
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    return change


def quantise(suffix):
    def change(tensors):
        tensors["model.layers.0.mlp.up_proj" + suffix] = tensors.pop("model.layers.0.mlp.up_proj.weight").int()

    return change


def wrap(tensors):
    name = "model.layers.0.self_attn.q_proj"
    tensors[f"{name}.base_layer.weight"] = tensors.pop(f"{name}.weight")
    tensors[f"{name}.lora_A.default.weight"] = torch.ones(4, 256)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (with_prefix("base_model.model."), "The prefix base_model.model. is peft's"),
        (wrap, "Merge the adapter, with peft's merge_and_unload"),
        (with_prefix("module."), "The prefix module. is that of torch's DistributedDataParallel or DeepSpeed"),
        (with_prefix("_orig_mod."), "The prefix _orig_mod. is that of torch.compile"),
        (quantise(".qweight"), "quantised (AWQ or GPTQ). Give the model's original weights"),
        (quantise(".weight_scale_inv"), "quantised (FP8)"),
    ],
    ids=["peft", "lora inside", "ddp", "compile", "awq", "fp8"],
)
def test_names_of_wrappers_and_quantised_weights_are_explained(hf, tmp_path, change, part):
    rewrite(hf, change)
    rejected(hf_to_megatron, hf, tmp_path / "out", "have no rule", part)


def test_unknown_names_without_a_cause_are_only_named(hf):
    rewrite(hf, lambda tensors: tensors.update({"model.other": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"1 have no rule: \[model.other \[2\] in .*\]\.$"):
        check_hf_keys(hf, ModelSource.open(hf).info)


@pytest.mark.parametrize("with_config", [False, True])
def test_a_lora_folder_is_refused_as_one(hf, with_config):
    (hf / "model.safetensors").unlink()
    save_file({"base_model.model.x.lora_A.weight": torch.ones(1)}, hf / "adapter_model.safetensors")
    (hf / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen2.5-VL-7B-Instruct"}))
    (hf / "training_args.bin").write_bytes(b"")
    if not with_config:
        (hf / "config.json").unlink()
    with pytest.raises(ValueError, match="is a LoRA adapter .* its base model Qwen/Qwen2.5-VL-7B-Instruct, with"):
        find_model_folder(hf)


def test_a_stray_adapter_config_does_not_come_along(hf, tmp_path):
    """transformers would load the base model that it names instead of the weights beside it."""
    (hf / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    hf_to_megatron(hf, tmp_path / "megatron")
    assert (tmp_path / "megatron" / "hf" / "config.json").is_file()
    assert not (tmp_path / "megatron" / "hf" / "adapter_config.json").exists()
    (tmp_path / "megatron" / "hf" / "adapter_config.json").write_text("{}")  # of a checkpoint from before
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    assert not (tmp_path / "back" / "adapter_config.json").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_small_files_that_are_missing_are_named_in_both_directions(hf, tmp_path, name, monkeypatch):
    said = []
    monkeypatch.setattr(companions.logger, "warning", lambda text, *values: said.append(text % values))
    hf_to_megatron(hf, tmp_path / "whole", dry_run=True)
    assert said == []
    (hf / name).unlink()
    hf_to_megatron(hf, tmp_path / "megatron")
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    for folder, text in zip((hf, tmp_path / "megatron" / "hf"), said, strict=True):
        assert "no run can start from the result" in text and f"{folder} lacks {name}" in text
