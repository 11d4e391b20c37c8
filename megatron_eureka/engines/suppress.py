"""Which tokens a response may not hold, the same in the engine and in the trainer; and what its text leaves out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from megatron_eureka.rewards.format import TAGS

_OPENING = re.compile(r"<([A-Za-z][\w-]*)>")


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


def end_texts(tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> dict[int, str]:
    """How the end tokens read that are special tokens; a response's text is without the one that ended it."""
    tokens = {number: tokenizer.added_tokens_decoder.get(number) for number in stop_ids}
    return {number: token.content for number, token in tokens.items() if token is not None and token.special}


def without_end(text: str, end: str) -> str:
    """A text that ends in its end token's, without it; of that only a beginning may be there, after a stop string."""
    size = next((size for size in range(len(end), 0, -1) if text.endswith(end[:size])), 0)
    return text[: len(text) - size]


def suppressed_token_ids(vocab_size: int, tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Ids that are never sampled: special tokens that no response needs, and the padding of the vocabulary.

    A response needs the end tokens, and tags where they are tokens of their own: those of thinking and answering, and
    other pairs such as <plan> and </plan>, for which a reward may look.

    A response with `<|image_pad|>` in it has a visual token without an image, which neither side can forward; an id
    past the tokenizer's has no text. The engine gives these ids a logit of -inf before it normalises, so its log-probs
    are those of the remaining tokens. **The trainer has to mask the same ids to -inf before its own log-softmax**, at
    every response position and in entropies; otherwise its log-probs are lower by log(1 - p(suppressed)).

    Args:
        vocab_size: rows of the model's head.
        tokenizer: the model's.
        stop_ids: see `stop_token_ids`; these stay allowed.
    """
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    tags = {*TAGS, *_pairs(special.values())}
    special = {number for number, text in special.items() if text not in tags}
    padding = set(range(vocab_size)) - set(tokenizer.get_vocab().values())
    return tuple(sorted((special | padding) - set(stop_ids)))


def _pairs(texts: Iterable[str]) -> set[str]:
    """Those of the form <name> or </name> whose other one is there too; <s> and </s> bound a text, as bos and eos."""
    texts = set(texts)
    names = {match[1] for match in map(_OPENING.fullmatch, texts) if match} - {"s"}
    return {tag for name in names if f"</{name}>" in texts for tag in (f"<{name}>", f"</{name}>")}
