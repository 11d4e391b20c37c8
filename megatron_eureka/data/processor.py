"""The model's processor: tokenizer, chat template and, of a model that sees, image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoProcessor, AutoTokenizer

from megatron_eureka.config.model_info import ModelInfo
from megatron_eureka.families.companions import companion_problems
from megatron_eureka.families.source import ModelSource

MAX_REASON = 300  # characters; transformers lists a hundred types in one of its messages


class TextProcessor:
    """A tokenizer in the place of a processor, for a model of text alone."""

    image_processor = None
    image_token = ""
    image_token_id = None

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def apply_chat_template(self, turns: list[dict], **options: Any) -> str:
        """As the tokenizer's, whose template may know contents that are strings only."""
        return self.tokenizer.apply_chat_template([turn | {"content": _joined(turn)} for turn in turns], **options)


def _joined(turn: dict) -> str:
    content = turn["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def load_processor(source: ModelSource) -> Any:
    """transformers' processor of a model, or its tokenizer as a `TextProcessor`.

    Raises:
        ValueError: files are missing, transformers cannot load them, or their ids are not the model's; the file or the
            reason is named.
    """
    folder = source.hf
    problems = companion_problems(folder, source.family)
    if problems:
        raise ValueError("\n".join(problems))
    try:
        if source.info.vision is None:
            processor = TextProcessor(AutoTokenizer.from_pretrained(folder))
        else:
            processor = AutoProcessor.from_pretrained(folder)
    except Exception as error:  # what it raises depends on the file that is broken, and on the class it is for
        reason = f"{type(error).__name__}: {str(error)[:MAX_REASON]}"
        raise ValueError(
            f"Tokenizer and processor in {folder} cannot be loaded: {reason}. Copy its small files again, from the "
            "model that it was made from."
        ) from error
    _check_ids(processor, source.info, folder)
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
    """Make a prompt as the data sets' are made, with one image where the model sees.

    Raises:
        ValueError: the template fails, or the prompt has no placeholder for the image, or several.
    """
    image = [{"type": "image", "image": "x.png"}] if processor.image_processor is not None else []
    turns = [{"role": "user", "content": [*image, {"type": "text", "text": "What is it?"}]}]
    try:
        text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise whatever it likes, and jinja what is wrong with it
        raise ValueError(f"The chat template in {folder} fails: {type(error).__name__}: {error}.") from error
    placeholders = processor.tokenizer(text, add_special_tokens=False)["input_ids"].count(processor.image_token_id)
    if placeholders != len(image):
        raise ValueError(
            f"The chat template in {folder} makes {placeholders} image placeholders ({processor.image_token}) of one "
            "image. Copy chat_template and tokenizer files from the model that it was made from."
        )
