"""Writing a Hugging Face folder: byte-exact, complete or absent, and readable by transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from megatron_eureka.checkpoints import check_hf_keys, export_hf, save_hf
from megatron_eureka.families.source import ModelSource


@pytest.fixture
def tensors(untied):
    return load_file(untied / "model.safetensors")


def read_all(folder):
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("max_file_bytes", [10**9, 300_000])
def test_folder_equals_its_source(untied, tensors, tmp_path, max_file_bytes):
    target = tmp_path / "out"
    in_any_order = sorted(tensors.items(), reverse=True)
    save_hf(target, in_any_order, untied, max_file_bytes=max_file_bytes)
    written = read_all(target)
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)
    check_hf_keys(target, ModelSource.open(target).info)
    index = target / "model.safetensors.index.json"
    assert index.exists() == (max_file_bytes < 10**9)
    if index.exists():
        weight_map = json.loads(index.read_text())["weight_map"]
        assert all(name in load_file(target / file) for name, file in weight_map.items())
        largest = max(tensor.numel() * 4 for tensor in tensors.values())
        assert all(file.stat().st_size < max(max_file_bytes, largest) + 20_000 for file in target.glob("*.saf*"))
    others = {file.name for file in untied.iterdir()} - {"model.safetensors"}
    assert others <= {file.name for file in target.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_transformers_loads_what_was_written(untied, tensors, tmp_path):
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    save_hf(tmp_path / "out", tensors.items(), untied, dtype=torch.bfloat16, max_file_bytes=300_000)
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.lm_head.weight, tensors["lm_head.weight"].bfloat16())
    AutoProcessor.from_pretrained(tmp_path / "out")


def test_tied_model_is_written_without_a_head(tied, tmp_path):
    tensors = load_file(tied / "model.safetensors")
    save_hf(tmp_path / "out", tensors.items(), tied)
    assert "lm_head.weight" not in read_all(tmp_path / "out")
    with pytest.raises(ValueError, match="lm_head.weight.* is no tensor of the model"):
        save_hf(tmp_path / "two", [("lm_head.weight", tensors["model.embed_tokens.weight"])], tied)


def test_existing_target_is_refused_and_untouched(untied, tensors, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        save_hf(tmp_path / "out", tensors.items(), untied)
    assert not list((tmp_path / "out").iterdir())


def test_failures_leave_nothing(untied, tensors, tmp_path):
    norm = tensors["model.norm.weight"]
    cases = {
        "1 of 69 tensors never came, among them .'model.norm.weight'": {
            name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"
        }.items(),
        "model.norm.weight' came twice": [("model.norm.weight", norm)] * 2,
        r"has shape \[255\], expected \[256\]": [("model.norm.weight", norm[1:])],
        r"'model.layers.0.None' of shape \[256\] is no tensor": [("model.layers.0.None", norm)],
        "No tensors to write": [],
    }
    for message, stream in cases.items():
        with pytest.raises(ValueError, match=message):
            save_hf(tmp_path / "out", stream, untied)
        assert not list(tmp_path.iterdir())


def test_a_stream_that_breaks_leaves_nothing(untied, tensors, tmp_path):
    def breaks():
        yield from list(tensors.items())[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_hf(tmp_path / "out", breaks(), untied)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", [None, "model.layers.1.mlp.up_proj.weight"])
def test_a_writer_that_fails_exhausts_the_stream(untied, tensors, tmp_path, broken):
    """Before the first tensor (the target exists) or amid them: the other ranks' collectives go on to the end."""
    seen = []

    def stream():
        for name, tensor in tensors.items():
            seen.append(name)
            yield name, tensor[1:] if name == broken else tensor

    if broken is None:
        (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="has shape" if broken else "exists already"):
        export_hf(stream(), tmp_path / "there", untied, len(tensors), is_writer=True)
    assert seen == list(tensors)
