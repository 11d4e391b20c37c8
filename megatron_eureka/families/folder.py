"""What kind of model folder a path is: Hugging Face's, or a Megatron checkpoint that has its small files in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HF_PART = "hf"  # folder inside a Megatron checkpoint: config, tokenizer and processor of the model
BACKEND_FILE = "metadata.json"  # Megatron-Core's, at the top of each of its checkpoints
# peft's, of a LoRA adapter
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")  # a trainer leaves other .bin files beside them


@dataclass(frozen=True)
class ModelFolder:
    """A folder of weights."""

    path: Path
    kind: Literal["hf", "megatron"]
    hf: Path  # where config, tokenizer and processor lie

    def __str__(self) -> str:
        return f"{'Hugging Face folder' if self.kind == 'hf' else 'Megatron checkpoint'} {self.path}"


def find_model_folder(path: str | Path) -> ModelFolder:
    """Say what a folder is. Only file names and Megatron-Core's small `metadata.json` are looked at.

    Raises:
        ValueError: no such folder, neither kind, both kinds, or a Megatron checkpoint without the files of its model.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(
            f"There is no folder {str(path)!r}. Give a Hugging Face folder of a model or a Megatron checkpoint of one."
        )
    is_hf, is_megatron = (path / "config.json").is_file(), is_megatron_checkpoint(path)
    if not is_megatron:
        _reject_adapter(path)
    if is_hf and is_megatron:
        raise ValueError(f"{path} holds both config.json and {BACKEND_FILE}: keep only one model in a folder.")
    if is_hf:
        return ModelFolder(path, "hf", path)
    if is_megatron:
        if not (path / HF_PART / "config.json").is_file():
            raise ValueError(
                f"The Megatron checkpoint {path} does not say what model it is: {path / HF_PART / 'config.json'} is "
                f"missing. Copy the model's config, tokenizer and processor files into {path / HF_PART}."
            )
        return ModelFolder(path, "megatron", path / HF_PART)
    raise ValueError(
        f"{path} is no model folder: config.json is missing (Hugging Face), and so is {BACKEND_FILE} (Megatron)."
        f"{checkpoints_inside(path)}"
    )


def _reject_adapter(path: Path) -> None:
    """An adapter alone is no model. A stray adapter_config.json beside whole weights, or beside none, does no harm."""
    weights = {file.name for pattern in _WEIGHTS for file in path.glob(pattern)}
    if not weights or any(not name.startswith("adapter_") for name in weights):
        return
    try:
        base = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    raise ValueError(
        f"{path} is a LoRA adapter ({min(weights)}), no model. Merge it into its base model"
        f"{f' {base}' if base else ''}, with peft's merge_and_unload, and give the folder of the result."
    )


def checkpoints_inside(path: Path) -> str:
    """A sentence about the Megatron checkpoints in a folder, for those who gave it instead of one of them."""
    parents = [path, path / "checkpoints"]  # a folder of checkpoints; a run
    inside = [
        str(child.relative_to(path))
        for parent in parents
        if parent.is_dir()
        for child in sorted(parent.iterdir())
        if is_megatron_checkpoint(child)
    ]
    return f" It holds the checkpoints {', '.join(inside)}: give one of them." if inside else ""


def is_megatron_checkpoint(path: Path) -> bool:
    """Whether Megatron-Core's `dist_checkpointing` wrote, or would load, this folder."""
    return sharded_backend(path) is not None


def sharded_backend(path: Path) -> str | None:
    """The format of a Megatron checkpoint; None of any other folder."""
    try:
        content = json.loads((path / BACKEND_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content.get("sharded_backend") if isinstance(content, dict) else None
