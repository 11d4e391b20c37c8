"""Which kind of model folder a path is, and what is said of one that is neither."""

import json

import pytest

from megatron_eureka.families import PUBLISHED
from megatron_eureka.families.folder import find_model_folder
from megatron_eureka.families.source import ModelSource, find_source

CONFIG = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"mrope_section": [16, 24, 24]},
    "max_position_embeddings": 128000,
    "image_token_id": 151655,
    "vision_start_token_id": 151652,
    "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
}


def hugging_face(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def megatron(folder):
    hugging_face(folder / "hf")
    (folder / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    return folder


def test_both_kinds_are_told_apart_and_have_the_sizes_of_their_model(tmp_path):
    hf, checkpoint = hugging_face(tmp_path / "a"), megatron(tmp_path / "b")
    assert str(find_model_folder(hf)) == f"Hugging Face folder {hf}" and find_model_folder(hf).hf == hf
    found = find_model_folder(str(checkpoint))
    assert str(found) == f"Megatron checkpoint {checkpoint}" and found.hf == checkpoint / "hf"
    seven = PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]
    assert ModelSource.open(hf).info == ModelSource.open(str(checkpoint)).info == find_source(checkpoint).info == seven


def test_what_is_neither_is_refused_with_the_reason(tmp_path):
    def rejected(path, match):
        for function in (find_model_folder, ModelSource.open):
            with pytest.raises(ValueError, match=match):
                function(path)

    rejected(tmp_path / "nowhere", "no folder '.*nowhere'. Give a Hugging Face folder .* or a Megatron checkpoint")
    rejected(tmp_path, r"config.json is missing \(Hugging Face\), and so is metadata.json \(Megatron\)")
    checkpoint = megatron(tmp_path / "run" / "step_5")
    megatron(tmp_path / "run" / "step_10")
    rejected(tmp_path / "run", "It holds the checkpoints step_10, step_5: give one of them")
    (checkpoint / "config.json").write_text("{}")
    rejected(checkpoint, "both config.json and metadata.json")
    (checkpoint / "config.json").unlink()
    (checkpoint / "hf" / "config.json").unlink()
    rejected(checkpoint, "does not say what model it is: .*hf/config.json is missing. Copy")
    (checkpoint / "hf" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="hf/config.json is not valid JSON"):
        ModelSource.open(checkpoint)
