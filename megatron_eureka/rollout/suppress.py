"""Which tokens a response may not hold, the same in the engine and in the trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    added_tokens_decoder: dict
    eos_token_id: int | None

    def get_vocab(self) -> dict[str, int]: ...


def stop_token_ids(folder: str | Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """End tokens: those of the folder's generation_config.json, and the tokenizer's."""
    file = Path(folder) / "generation_config.json"
    ids = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    ids = ids if isinstance(ids, list) else [ids]
    return tuple(sorted({number for number in [*ids, tokenizer.eos_token_id] if number is not None}))


def suppressed_token_ids(vocab_size: int, tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Ids that are never sampled: special tokens other than the end tokens, and the padding of the vocabulary.

    A response with `<|image_pad|>` in it has a visual token without an image, which neither side can forward; an id
    past the tokenizer's has no text. The engine gives these ids a logit of -inf before it normalises, so its log-probs
    are those of the remaining tokens. **The trainer has to mask the same ids to -inf before its own log-softmax**, at
    every response position and in entropies; otherwise its log-probs are lower by log(1 - p(suppressed)).

    Args:
        vocab_size: rows of the model's head.
        tokenizer: the model's.
        stop_ids: see `stop_token_ids`; these stay allowed.
    """
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    padding = set(range(vocab_size)) - set(tokenizer.get_vocab().values())
    return tuple(sorted((special | padding) - set(stop_ids)))
