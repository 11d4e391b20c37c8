"""The tiny model of the digits example loads everywhere the published models load."""

import pytest
import torch
from PIL import Image

from examples.digits.model import SPECIAL_TOKENS, make_model
from megatron_eureka.families.source import ModelSource

MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is the sum of the two digits?"}]}
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("tiny") / "model")


def test_demo_sizes(folder):
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    info = ModelSource.open(folder).info
    assert sum(parameter.numel() for parameter in model.parameters()) == 799_680
    assert (info.vocab_size, info.head_dim, info.mrope_section, info.tied) == (384, 32, (4, 6, 6), False)


def test_processor_makes_one_placeholder_a_merged_patch(folder):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    info = ModelSource.open(folder).info
    text = processor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    for size, expected in (((56, 28), 2), ((28, 28), 1), ((112, 84), 12)):
        batch = processor(text=[text], images=[Image.new("RGB", size)], return_tensors="pt")
        assert (batch["input_ids"] == info.image_token_id).sum() == expected
        assert batch["image_grid_thw"].prod() == 4 * expected == len(batch["pixel_values"])


def test_tokenizer_splits_digits_and_ends_turns(folder):
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("345")["input_ids"]) == ["3", "4", "5"]
    assert tokenizer.decode(tokenizer("12 + 34 = 46\n<think> é")["input_ids"]) == "12 + 34 = 46\n<think> é"
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token_id == end == GenerationConfig.from_pretrained(folder).eos_token_id


def test_std_leaves_nothing_at_its_default(tmp_path):
    from safetensors.torch import load_file

    weights = load_file(make_model(tmp_path / "m", std=0.15) / "model.safetensors")
    assert all(tensor.unique().numel() > tensor.numel() // 2 for tensor in weights.values())


def test_seed_decides_weights_and_leaves_global_rng_alone(tmp_path):
    from safetensors.torch import load_file

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    folders = [make_model(tmp_path / str(index), seed=seed) for index, seed in enumerate((3, 3, 4))]
    assert torch.equal(torch.rand(3), expected)
    first, again, other = (load_file(folder / "model.safetensors")["lm_head.weight"] for folder in folders)
    assert torch.equal(first, again) and not torch.equal(first, other)
