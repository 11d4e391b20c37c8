"""Loading from disk: exact under every layout, complete, and clear about anything that does not fit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_eureka.checkpoints import check_hf_keys, load_hf
from megatron_eureka.checkpoints.finite import all_finite, num_not_finite
from megatron_eureka.families.source import ModelSource
from megatron_eureka.weights import rules_by_name, shards_to_hf
from tests.checkpoints.stages import empty_stage

EMBEDDING = "language_model.embedding.word_embeddings.weight"


def load_all(folder, tp, pp, spec="te", dtype=torch.float32):
    """Each stage's shards of each tensor-parallel rank: [pp][tp] dictionaries."""
    info = ModelSource.open(folder).info
    stages = [[empty_stage(info, stage, pp, tp, spec, dtype) for _ in range(tp)] for stage in range(pp)]
    for ranks in stages:
        for tp_rank, parameters in enumerate(ranks):
            load_hf(folder, parameters, info, tp_rank, tp)
    return stages


def exported(info, stages):
    """Hugging Face tensors from all shards, each required to come exactly once."""
    rules, result = rules_by_name(info), {}
    for ranks in stages:
        for name in ranks[0]:
            if rules[name].exported:
                tensors = shards_to_hf(rules[name], [rank[name] for rank in ranks])
                assert not tensors.keys() & result.keys()
                result |= tensors
    return result


@pytest.mark.parametrize("spec", ["te", "local"])
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("pp", [1, 2])
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_round_trip_from_disk(request, kind, tp, pp, spec):
    folder = request.getfixturevalue(kind)
    info, original = ModelSource.open(folder).info, load_file(folder / "model.safetensors")
    stages = load_all(folder, tp, pp, spec)
    assert all(tensor.isfinite().all() for ranks in stages for rank in ranks for tensor in rank.values())
    result = exported(info, stages)
    assert result.keys() == original.keys()
    assert all(torch.equal(result[name], original[name]) for name in original)


def test_tied_head_of_a_last_stage_is_fed_from_the_embedding(tied):
    first, last = load_all(tied, tp=2, pp=2)
    for tp_rank in range(2):
        assert torch.equal(last[tp_rank]["language_model.output_layer.weight"], first[tp_rank][EMBEDDING])


def test_dtype_follows_the_target(untied):
    stage = load_all(untied, tp=1, pp=1, dtype=torch.bfloat16)[0][0]
    original = load_file(untied / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(stage[EMBEDDING], original.bfloat16())


@pytest.fixture
def copy(untied, tmp_path):
    return shutil.copytree(untied, tmp_path / "copy")


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors")


def load(folder):
    info = ModelSource.open(folder).info
    parameters = empty_stage(info, 0, 1, 1)
    load_hf(folder, parameters, info, 0, 1)
    return parameters


def test_sharded_and_newer_names_load_the_same(untied, copy):
    tensors = load_file(copy / "model.safetensors")
    renamed = {
        name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name: tensor
        for name, tensor in tensors.items()
    }
    renamed = {f"model.{name}" if name.startswith("visual.") else name: t for name, t in renamed.items()}
    names = sorted(renamed)
    weight_map = {}
    for index, part in enumerate((names[::2], names[1::2])):
        save_file({name: renamed[name] for name in part}, copy / f"part-{index}.safetensors")
        weight_map |= dict.fromkeys(part, f"part-{index}.safetensors")
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    check_hf_keys(copy, ModelSource.open(copy).info)
    assert all(torch.equal(tensor, load(untied)[name]) for name, tensor in load(copy).items())
    (copy / "part-1.safetensors").unlink()
    with pytest.raises(ValueError, match="part-1.safetensors is missing, though"):
        load(copy)


def test_truncated_file_is_named(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="model.safetensors is damaged or cut off"):
        load(copy)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="model.safetensors is damaged or cut off"):
        load(copy)
    file.unlink()
    with pytest.raises(ValueError, match="holds neither"):
        load(copy)


def test_missing_and_unknown_tensors_are_named(copy):
    info = ModelSource.open(copy).info

    def rename(tensors):
        tensors["model.layers.7.None"] = tensors.pop("model.norm.weight")

    rewrite(copy, rename)
    with pytest.raises(ValueError, match=r"'model.norm.weight' of shape \[256\], which language_model.decoder.final"):
        load(copy)
    with pytest.raises(ValueError, match=r"\[model.norm.weight \[256\]\]. 1 have no rule: \[model.layers.7.None"):
        check_hf_keys(copy, info)


def test_wrong_shape_on_disk_is_refused_before_anything_is_copied(copy):
    rewrite(copy, lambda tensors: {**tensors, "lm_head.weight": tensors["lm_head.weight"][:-1].contiguous()})
    info = ModelSource.open(copy).info
    parameters = empty_stage(info, 0, 1, 1)
    with pytest.raises(ValueError, match=r"lm_head.weight.*safetensors has shape \[383, 256\], expected \[384, 256\]"):
        load_hf(copy, parameters, info, 0, 1)
    assert all(tensor.isnan().all() for tensor in parameters.values())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "visual.blocks.0.norm1.weight"])
def test_a_value_that_is_no_number_is_found_at_the_load(copy, name, value):
    rewrite(copy, lambda tensors: tensors[name].view(-1)[5:8].fill_(value) is None)
    with pytest.raises(ValueError, match=f"'{name}' in .*model.safetensors holds 3 values that are infinite or no num"):
        load(copy)


def test_finite_is_what_isfinite_says():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        sound = torch.tensor([0.0, -0.0, torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)
        assert all_finite(sound) and num_not_finite(sound) == 0
        for place in range(4):
            for value in (torch.nan, torch.inf, -torch.inf):
                changed = sound.clone()
                changed[place] = value
                assert not all_finite(changed) and num_not_finite(changed) == 1
    assert all_finite(torch.empty(0))


def test_parameters_that_do_not_fit_are_named(untied):
    info = ModelSource.open(untied).info
    with pytest.raises(ValueError, match=r"No rule for parameter 'language_model.decoder.layers.9.x' of shape \[2\]"):
        load_hf(untied, {"language_model.decoder.layers.9.x": torch.empty(2)}, info, 0, 1)
    with pytest.raises(ValueError, match=r"\[384, 256\], expected \[192, 256\] at tensor-parallel size 2"):
        load_hf(untied, {EMBEDDING: torch.empty(384, 256)}, info, 0, 2)
    norm = {
        "language_model.decoder.layers.0.input_layernorm.weight": torch.empty(256),
        "language_model.decoder.layers.0.self_attention.linear_qkv.layer_norm_weight": torch.empty(256),
    }
    with pytest.raises(ValueError, match="are the same parameter"):
        load_hf(untied, norm, info, 0, 1)
