"""Write a tiny random Qwen2.5-VL: the real architecture, tokenizer, chat template and processor, in 0.8 M parameters.

The folder loads with transformers and vLLM like the published models. The vocabulary is padded to a multiple of 128, so
tensor-parallel sizes 1, 2 and 4 divide it; head dim 32 is the smallest that vLLM's CPU attention takes.

    python examples/digits/model.py /tmp/tiny --tied --seed 1
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import megatron_eureka  # noqa: F401  (before transformers: on CPU it makes CUDA-linked wheels importable)

# isort: split
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen2's pre-tokenisation: a digit is always a token of its own.
PRETOKENIZE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Qwen2.5-VL's own, without its default system turn: the data set decides whether there is one.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = (
    "system\nYou are a helpful assistant.",
    "user\nWhich digit is shown?",
    "user\nWhat is the sum of the two digits?",
    "user\nWhat is the difference of the two digits?",
    "user\nWhich of the two digits is larger?",
    "assistant\n<think> 3 + 5 </think><answer> 8 </answer>",
    "assistant\n<think> 3 - 5 </think><answer> 2 </answer>",
    "assistant\n<think> 3 max 5 </think><answer> 5 </answer>",
)

MAX_TOKENS = 384  # merges stop here, special tokens included
PAD_VOCAB_TO = 128


def make_tokenizer(corpus: Iterable[str] = ()) -> Qwen2Tokenizer:
    """Train a byte-level BPE of at most 384 tokens on the demo's sentences and `corpus`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_TOKENS - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*CORPUS, *corpus] * 2, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    result = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        unk_token=None,
        eos_token=AddedToken("<|im_end|>", special=True),
        pad_token=AddedToken("<|endoftext|>", special=True),
        model_max_length=2048,
    )
    result.add_special_tokens(
        {"extra_special_tokens": [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]}
    )
    result.chat_template = CHAT_TEMPLATE
    return result


def _randomise(model: torch.nn.Module, std: float) -> None:
    """Matrices from N(0, std), biases from N(0, std), norm weights from N(1, 0.2)."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.normal_(1.0, 0.2) if is_norm else parameter.normal_(0.0, std)


def _write_processor(folder: Path, tokenizer: Qwen2Tokenizer) -> None:
    tokenizer.save_pretrained(folder)
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text())
    config["processor_class"] = "Qwen2_5_VLProcessor"
    config_file.write_text(json.dumps(config, indent=2))
    image = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 28 * 28,
        "max_pixels": 640 * 28 * 28,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(image, indent=2))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


@dataclass(frozen=True)
class Sizes:
    """How large the model is."""

    num_layers: int = 3
    hidden_size: int = 128
    num_heads: int = 4
    num_kv_heads: int = 2
    ffn_size: int = 256
    vision_depth: int = 2
    vision_hidden_size: int = 64
    vision_num_heads: int = 4
    vision_ffn_size: int = 128


def make_model(
    folder: str | Path,
    *,
    tied: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    std: float | None = None,
    corpus: Iterable[str] = (),
    **sizes: int,
) -> Path:
    """Write config, weights, tokenizer, processor, chat template and generation config to `folder`.

    Args:
        tied: the head shares the embedding's weight.
        seed: of the weights; the tokenizer does not depend on it.
        dtype: of the stored weights, a torch name.
        std: draw every matrix and bias from N(0, std) and the norms from N(1, 0.2), so that no weight is 0 or 1 and
            logits differ clearly (0.15: std above 1); by default transformers' initialisation.
        corpus: further strings for the tokenizer's merges.
        sizes: fields of `Sizes`.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(corpus)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text_ids = dict(
        bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"]
    )
    vocab_size = -(-len(tokenizer) // PAD_VOCAB_TO) * PAD_VOCAB_TO
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(_config(Sizes(**sizes), vocab_size, ids, text_ids, tied))
        if std is not None:
            _randomise(model, std)
    model.generation_config = GenerationConfig(**text_ids, do_sample=False)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    _write_processor(folder, tokenizer)
    return folder


def _config(
    sizes: Sizes, vocab_size: int, ids: dict[str, int], text_ids: dict[str, int], tied: bool
) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=vocab_size,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.ffn_size,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            num_key_value_heads=sizes.num_kv_heads,
            max_position_embeddings=2048,
            rms_norm_eps=1e-6,
            tie_word_embeddings=tied,
            rope_parameters=_rope(sizes.hidden_size // sizes.num_heads),
            **text_ids,
        ),
        vision_config=dict(
            depth=sizes.vision_depth,
            hidden_size=sizes.vision_hidden_size,
            intermediate_size=sizes.vision_ffn_size,
            num_heads=sizes.vision_num_heads,
            out_hidden_size=sizes.hidden_size,
            fullatt_block_indexes=[sizes.vision_depth - 1],
            window_size=112,
            patch_size=14,
            spatial_merge_size=2,
            temporal_patch_size=2,
            in_channels=3,
        ),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )


def _rope(head_dim: int) -> dict:
    """M-RoPE with the published models' split of the frequencies: 1/4 time, 3/8 height, 3/8 width."""
    side = 3 * head_dim // 16
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [head_dim // 2 - 2 * side, side, side]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny random Qwen2.5-VL folder.")
    parser.add_argument("folder")
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--std", type=float, default=None)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    print(make_model(**vars(options)))


if __name__ == "__main__":
    main()
