"""The model's processor: tokenizer, chat template and image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from megatron_eureka.config.companion_files import companion_problems
from megatron_eureka.config.model_folder import find_model_folder
from megatron_eureka.config.model_info import ModelInfo

MAX_REASON = 300  # characters; transformers lists a hundred types in one of its messages


def load_processor(model: str | Path) -> Any:
    """The processor of a Hugging Face folder, or of a Megatron checkpoint that has the model's small files in it.

    Raises:
        ValueError: it is neither, files are missing, transformers cannot load them, or their ids are not the model's;
            the file or the reason is named.
    """
    folder = find_model_folder(model).hf
    problems = companion_problems(folder)
    if problems:
        raise ValueError("\n".join(problems))
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except Exception as error:  # what it raises depends on the file that is broken, and on the class it is for
        reason = f"{type(error).__name__}: {str(error)[:MAX_REASON]}"
        raise ValueError(
            f"Tokenizer and processor in {folder} cannot be loaded: {reason}. Copy its small files again, from the "
            "model that it was made from."
        ) from error
    _check_ids(processor, ModelInfo.from_folder(model), folder)
    return processor


def _check_ids(processor: Any, info: ModelInfo, folder: Path) -> None:
    """Tokenizer and weights belong together: tokens may have been added to one, or taken from another model."""
    largest = max(processor.tokenizer.get_vocab().values())
    if largest >= info.vocab_size:
        raise ValueError(
            f"The tokenizer in {folder} has ids up to {largest}, the model has {info.vocab_size} rows of embeddings: "
            "tokens were added without resizing the model (transformers' resize_token_embeddings)."
        )
    if processor.image_token_id != info.image_token_id:
        raise ValueError(
            f"{processor.image_token} has the id {processor.image_token_id} in the tokenizer in {folder} and "
            f"{info.image_token_id} in config.json: they belong to different models."
        )


def check_chat_template(processor: Any, folder: str | Path) -> None:
    """Make a prompt with one picture, as the data sets' are made.

    Raises:
        ValueError: the template fails, or the prompt has no placeholder for the picture, or several.
    """
    turns = [
        {"role": "user", "content": [{"type": "image", "image": "x.png"}, {"type": "text", "text": "What is it?"}]}
    ]
    try:
        text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise whatever it likes, and jinja what is wrong with it
        raise ValueError(f"The chat template in {folder} fails: {type(error).__name__}: {error}.") from error
    placeholders = processor.tokenizer(text, add_special_tokens=False)["input_ids"].count(processor.image_token_id)
    if placeholders != 1:
        raise ValueError(
            f"The chat template in {folder} makes {placeholders} image placeholders ({processor.image_token}) of one "
            "picture. Copy chat_template and tokenizer files from the model that it was made from."
        )
