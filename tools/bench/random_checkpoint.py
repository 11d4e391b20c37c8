"""Hugging Face folders of random bf16 weights, of any size of the model, and a comparison of two such folders.

    python tools/bench/random_checkpoint.py --size 3b --folder /data/random-3b

Every weight is random bits without the upper half of the exponents: finite, below 2, and no two places alike, so that a
tensor or a row in a wrong place is a difference. The same seed gives the same bytes. No tokenizer is written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from megatron_eureka.checkpoints import check_hf_keys, save_hf  # noqa: E402
from megatron_eureka.config.model_info import ModelInfo  # noqa: E402
from megatron_eureka.families import PUBLISHED  # noqa: E402
from megatron_eureka.families.source import ModelSource  # noqa: E402
from megatron_eureka.weights import hf_tensors  # noqa: E402

THREE_B = PUBLISHED["Qwen/Qwen2.5-VL-3B-Instruct"]
SIZES: dict[str, ModelInfo] = {
    # A few megabytes, to try a program on.
    "tiny": replace(
        THREE_B, hidden_size=256, num_layers=4, num_heads=2, ffn_size=512, vocab_size=1024,
        vision=replace(THREE_B.vision, depth=2, hidden_size=160, ffn_size=428, num_heads=2, out_hidden_size=256),
    ),
    # The proportions of the 3B model: two thirds in the layers, a tenth in the embedding, a sixth in the tower.
    "0.5b": replace(
        THREE_B, hidden_size=1024, num_layers=20, num_heads=8, ffn_size=5504, vocab_size=50176,
        vision=replace(THREE_B.vision, depth=16, hidden_size=640, ffn_size=1712, num_heads=8, out_hidden_size=1024),
    ),
    "3b": THREE_B,
    "7b": PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"],
}  # fmt: skip
MAX_FILE_BYTES = 4 * 10**9  # as the published folders are cut
FINITE = np.uint16(0xBFFF)  # a bf16 without the highest bit of its exponent
BLOCK = 1 << 21  # random 64-bit words in memory at once
COMPARED_BYTES = 16 << 20  # of each of two files in memory at once


def num_bytes(info: ModelInfo) -> int:
    """Of a model's weights in bf16."""
    return 2 * sum(torch.Size(tensor.shape).numel() for tensor in hf_tensors(info).values())


def hf_config(info: ModelInfo) -> dict:
    """The config.json of a model, in the flat form in which the published ones are."""
    vision = info.vision
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": info.hidden_size,
        "intermediate_size": info.ffn_size,
        "num_hidden_layers": info.num_layers,
        "num_attention_heads": info.num_heads,
        "num_key_value_heads": info.num_kv_heads,
        "vocab_size": info.vocab_size,
        "tie_word_embeddings": info.tied,
        "max_position_embeddings": info.max_positions,
        "rms_norm_eps": info.rms_norm_eps,
        "rope_theta": info.rope_theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(info.mrope_section)},
        "image_token_id": info.image_token_id,
        "vision_start_token_id": info.vision_start_token_id,
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": vision.depth,
            "hidden_act": "silu",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.ffn_size,
            "num_heads": vision.num_heads,
            "in_chans": vision.in_channels,
            "out_hidden_size": vision.out_hidden_size,
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "spatial_merge_size": vision.spatial_merge_size,
        },
    }


def random_tensors(info: ModelInfo, seed: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor of a model, in table order, one in memory at a time."""
    for index, tensor in enumerate(hf_tensors(info).values()):
        generator = np.random.Generator(np.random.SFC64([seed, index]))
        bits = np.empty(torch.Size(tensor.shape).numel(), np.uint16)
        for start in range(0, bits.size, 4 * BLOCK):
            block = bits[start : start + 4 * BLOCK]
            words = generator.integers(0, 1 << 64, -(-block.size // 4), np.uint64)
            np.bitwise_and(words.view(np.uint16)[: block.size], FINITE, out=block)
        yield tensor.name, torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).view(tensor.shape)


def make_checkpoint(folder: Path, info: ModelInfo, seed: int = 0) -> Path:
    """Write a folder of at least two shards, or keep the one that is there.

    Raises:
        ValueError: the folder exists and is not a whole checkpoint of this model.
    """
    if folder.exists():
        if ModelSource.open(folder).info != info:
            raise ValueError(f"{folder} holds a model of other sizes. Remove it or give another folder.")
        check_hf_keys(folder, info)
        return folder
    file_bytes = min(MAX_FILE_BYTES, num_bytes(info) * 3 // 5)
    with tempfile.TemporaryDirectory(prefix="random_checkpoint_") as like:
        Path(like, "config.json").write_text(json.dumps(hf_config(info), indent=2) + "\n", encoding="utf-8")
        save_hf(folder, random_tensors(info, seed), like, dtype=torch.bfloat16, max_file_bytes=file_bytes)
    return folder


def first_difference(one: Path, other: Path) -> str | None:
    """The first tensor in which two folders differ, by name, dtype, shape and bytes; None where all are equal.

    It reads the files itself, without the code that wrote them; how tensors are spread over files does not matter.
    """
    left, right = _places(one), _places(other)
    if left.keys() != right.keys():
        return f"only in one of the two folders: {sorted(left.keys() ^ right.keys())[:5]}"
    for name, (file, kind, start, size) in left.items():
        other_file, other_kind, other_start, other_size = right[name]
        if (kind, size) != (other_kind, other_size):
            return f"{name} is {kind} of {size} bytes in {one}, {other_kind} of {other_size} bytes in {other}"
        if not _equal_bytes(file, start, other_file, other_start, size):
            return f"{name} has other bytes in {one} than in {other}"
    return None


def _places(folder: Path) -> dict[str, tuple[Path, tuple, int, int]]:
    """Of each tensor: its file, its dtype and shape, where its bytes start, and how many they are."""
    places = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            places[name] = (file, (entry["dtype"], tuple(entry["shape"])), 8 + length + start, end - start)
    return places


def _equal_bytes(file: Path, start: int, other_file: Path, other_start: int, size: int) -> bool:
    with file.open("rb", buffering=0) as one, other_file.open("rb", buffering=0) as other:
        for done in range(0, size, COMPARED_BYTES):
            count = min(COMPARED_BYTES, size - done)
            block = os.pread(one.fileno(), count, start + done)
            if len(block) < count or block != os.pread(other.fileno(), count, other_start + done):
                return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="0.5b")
    parser.add_argument("--folder", type=Path, required=True, help="kept when it is there and whole")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    info = SIZES[options.size]
    make_checkpoint(options.folder, info, options.seed)
    print(f"{options.folder}: {num_bytes(info) / 2e9:.2f} billion parameters, {num_bytes(info) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
