"""One line of a data set -> chat turns in one form, whatever form the line has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from megatron_eureka.data.bad_row import bad_row
from megatron_eureka.families.chat import CONTROL_TOKENS

ROLES = ("system", "user", "assistant", "tool")
# Where public sets put an image: the next one, the n-th, or one of a number of their own.
PLACEHOLDER = re.compile(r"<(?:image[ _]?(?P<number>\d{0,2})|img_\d{1,9})>")


@bad_row("message", "message: ")
def parse_messages(value: Any) -> tuple[dict, ...]:
    """Chat turns from a list, or from a JSON string of one.

    A turn's content is a string or a list of parts: `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}`
    or OpenAI's `{"type": "image_url", "image_url": {"url": ...}}`; fields that are null do not count. Image parts come
    back as `{"type": "image", "image": source}`.

    Raises:
        BadRow: not JSON, no turns, an unknown role or part, or options of a part that would be ignored.
    """
    return _turns(value)


@bad_row("message", "message: ")
def parse_prompt(value: Any) -> tuple[dict, ...]:
    """Chat turns that ask something: what training and evaluation take.

    Raises:
        BadRow: as `parse_messages`; the last turn is not the user's, so that the answer may stand in the prompt;
            it is empty; a text names images and there is none; or it holds tokens of the chat or of images.
    """
    messages = _turns(value)
    last = messages[-1]
    if last["role"] != "user":
        raise ValueError(f"the last turn is the {last['role']}'s, expected the user's; an answer is no turn")
    if not image_sources((last,)) and not "".join(turn_texts(last)).strip():
        raise ValueError("the user's last turn is empty")
    named = named_images(messages)
    if named and not image_sources(messages):
        raise ValueError(f"{', '.join(named)} in a text, but no image. Give images as parts of the turn")
    held = control_tokens(text for turn in messages for text in turn_texts(turn))
    if held:
        raise ValueError(
            f"{', '.join(held)} in a text would not be read as text. Take it out; give turns as turns and "
            "images as parts of a turn's content"
        )
    return messages


def _turns(value: Any) -> tuple[dict, ...]:
    value = turns_in(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected a list of chat turns or a JSON string of one, got {show(value)}")
    return tuple(_parse_turn(turn) for turn in value)


def turns_in(value: Any) -> Any:
    """What a text is as JSON; anything else as it is.

    Raises:
        ValueError: it is a text, and no JSON.
    """
    try:
        return parse_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"a string that is no JSON: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: it is none, no UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(error) from error


def turn_texts(turn: dict) -> list[str]:
    """The texts of a turn in their order."""
    content = turn["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def named_images(messages: tuple[dict, ...]) -> list[str]:
    """Placeholders such as <image> or <image2> that the user's texts hold; a numbered one counts once."""
    texts = [text for turn in messages if turn["role"] == "user" for text in turn_texts(turn)]
    found = [match for text in texts for match in PLACEHOLDER.finditer(text)]
    bare = [match.group() for match in found if match["number"] == ""]
    return bare + list(dict.fromkeys(match.group() for match in found if match["number"] != ""))


def image_sources(messages: tuple[dict, ...]) -> list[str]:
    """The sources of all images in the order of their placeholders."""
    parts = [part for turn in messages if isinstance(turn["content"], list) for part in turn["content"]]
    return [part["image"] for part in parts if part["type"] == "image"]


def control_tokens(texts: Iterable[str]) -> list[str]:
    """Tokens of the chat and of images that the texts hold; a tokenizer reads them as such wherever they stand."""
    held = {token for text in texts for token in CONTROL_TOKENS if token in text}
    return [token for token in CONTROL_TOKENS if token in held]


def _parse_turn(turn: Any) -> dict:
    if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
        raise ValueError(f"expected turns with role and content, got {show(turn)}")
    if turn["role"] not in ROLES:
        raise ValueError(f"role {show(turn['role'])} is none of {', '.join(ROLES)}")
    content = turn["content"]
    if isinstance(content, list):
        content = [_parse_part(part) for part in content]
    elif not isinstance(content, str):
        raise ValueError(f"content must be a string or a list of parts, got {show(content)}")
    return {"role": turn["role"], "content": content}


def _parse_part(part: Any) -> dict:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise ValueError(f"a part must be a mapping with a type, got {show(part)}")
    given = {name: value for name, value in part.items() if value is not None}
    kind = given.pop("type", None)
    source = given.pop("image", None) if kind != "text" else None
    if kind == "image_url" or source is None and "image_url" in given and kind == "image":
        source = given.pop("image_url", None)
        source = source.get("url") if isinstance(source, dict) else source
    if kind == "text" and isinstance(given.get("text"), str):
        text = given.pop("text")
        _reject_rest(given, "text")
        return {"type": "text", "text": text}
    if kind in ("image", "image_url") and isinstance(source, str) and source:
        _reject_rest(given, "image")
        return {"type": "image", "image": source}
    raise ValueError(f"a part must be a text or an image with its source, got {show(part)}")


def _reject_rest(rest: dict, kind: str) -> None:
    """Ignoring an option such as min_pixels of one image would change what is trained without a word."""
    rest = {name: value for name, value in rest.items() if value != ""}
    if rest:
        raise ValueError(f"{', '.join(sorted(rest))} of a part of type {kind} is not supported; remove it")


def show(value: Any) -> str:
    """The value for an error message: cut where it is long or deep."""
    try:
        text = repr(value)
    except RecursionError:
        return f"{type(value).__name__}, nested too deeply"
    return text if len(text) <= 100 else f"{text[:100]}..."
