"""The model's processor: tokenizer, chat template and image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from megatron_eureka.config.model_folder import find_model_folder


def load_processor(model: str | Path) -> Any:
    """The processor of a Hugging Face folder, or of a Megatron checkpoint that has the model's small files in it.

    Raises:
        ValueError: it is neither.
    """
    return AutoProcessor.from_pretrained(find_model_folder(model).hf)
